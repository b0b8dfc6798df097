# make env | lint | unit | test (both) | test-slow | test-kill | c | fuzz (fuzz-python, fuzz-c) | matrix | packable | bench-gpu | format | wheel | docs | demo | clean. PYTHON is the interpreter .venv is made with.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# What the compiled extension is made of: a change rebuilds it. The C library is none of it.
SOURCES := $(shell find kernels -path kernels/c -prune -o \( -name CMakeLists.txt -o -name '*.cmake' -o -name '*.cpp' -o -name '*.h' \) -print)

# What clang-format keeps in shape.
FORMATTED := $(shell find kernels tests -name '*.cpp' -o -name '*.h')

# uv downloads, unpacks and compiles the extension at the same time, pip one after the other. uv does
# not read pip's files, so it is told the indexes in them. Python files are compiled here: compiled at
# import instead, modules of others whose source Python warns of would fail under pytest, which takes
# warnings for errors.
PIP = $(BIN)/python -m pip install --quiet
PIP_SETS = $$($(BIN)/python -m pip config list | sed -n "s/^[^=]*\.$(1)='\(.*\)'$$/\1/; T; s/\\\\n/ /g; p" | sed 1q)
UV = UV_DEFAULT_INDEX="$(call PIP_SETS,index-url)" UV_INDEX="$(call PIP_SETS,extra-index-url)" \
  UV_INDEX_STRATEGY=unsafe-best-match $(BIN)/uv pip install --quiet --python $(VENV) --compile-bytecode

.PHONY: env lint format unit test test-slow test-kill c fuzz fuzz-python fuzz-c matrix packable bench-gpu wheel docs demo clean

env: $(STAMP)

# With pip where uv is not to be had or fails; the extension first, in case there is no compiler.
$(STAMP): pyproject.toml constraints.txt $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	{ $(PIP) uv -c constraints.txt && $(UV) --reinstall-package rsquant -e '.[all,dev]' -c constraints.txt; } || \
	  { $(PIP) --no-deps -e . && $(PIP) 'rsquant[all,dev]' -c constraints.txt; }
	touch $@

# Where mypy finds kernels/gpu under the name it has in the package.
TYPED := build/typed/rsquant/kernels

lint: env
	mkdir -p $(TYPED) && ln -sfn ../../../../kernels/gpu $(TYPED)/gpu
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/clang-format --dry-run -Werror $(FORMATTED)
	$(BIN)/mypy -p rsquant -p rsquant.kernels.gpu

format: env
	$(BIN)/ruff format --quiet .
	$(BIN)/clang-format -i $(FORMATTED)

# A process for each processor. Each begins with tests that are next to each other, so that fixtures are
# shared within a file, and takes over tests of another when it has none left.
PARALLEL ?= -n auto --maxprocesses 4 --dist worksteal

# With `make -j2` both at the same time.
test: lint unit

# Some tests run make themselves: it is no part of this one.
unit: env
	MAKEFLAGS= $(BIN)/python -m pytest -q -m "not slow" $(PARALLEL)

test-slow: env
	$(BIN)/python -m pytest -q -m slow

# kill -9 at random moments of a training in one process, then in two.
KILLS ?= 100
test-kill: env
	OMP_NUM_THREADS=1 $(BIN)/python bench/kill.py --kills $(KILLS)
	OMP_NUM_THREADS=1 $(BIN)/python bench/kill.py --kills $(KILLS) --processes 2

# The C library and rsq-run, in build/c: no Python. C_ISAS: instruction sets, empty for all.
C_ISAS ?=
CMAKE = $(if $(wildcard $(BIN)/cmake),$(BIN)/cmake,cmake)
c:
	$(CMAKE) -S kernels/c -B build/c -DCMAKE_BUILD_TYPE=Release "-DRSQUANT_ONLY=$(C_ISAS)"
	$(CMAKE) --build build/c --parallel

# Altered packed files through an extension and a C library built with AddressSanitizer: minutes.
# FILES, C_FILES: how many; C_FIRST: number of the first of these, to go on behind others; C_SEED: other files;
# FUZZ_ISAS: instruction sets to build and run, empty for all.
FILES ?= 3000
C_FILES ?= 100000
C_FIRST ?= 0
C_SEED ?= 0
FUZZ_ISAS ?= scalar;avx2
fuzz: fuzz-python fuzz-c

fuzz-python: env
	$(BIN)/python -m pip install --quiet nanobind cmake ninja
	$(BIN)/cmake -G Ninja -S kernels -B build/fuzz -DCMAKE_BUILD_TYPE=Release \
	  -DRSQUANT_SANITIZE=ON "-DRSQUANT_ONLY=$(FUZZ_ISAS)" -DPython_EXECUTABLE=$(abspath $(BIN)/python) \
	  -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) \
	  -Dnanobind_DIR=$$($(BIN)/python -m nanobind --cmake_dir)
	$(BIN)/cmake --build build/fuzz
	ASAN_OPTIONS=detect_leaks=0 LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	  RSQUANT_NATIVE=$$(ls build/fuzz/_cpu*.so) $(BIN)/python tests/fuzz/packed_files.py $(FILES)
	$(BIN)/python tests/fuzz/readers.py $(FILES)

fuzz-c: env
	$(BIN)/python -m pip install --quiet cmake ninja
	$(BIN)/cmake -G Ninja -S kernels/c -B build/fuzz-c -DCMAKE_BUILD_TYPE=Release -DRSQUANT_FUZZ=ON \
	  -DRSQUANT_SMALL_LAYOUT=2048 -DRSQUANT_SANITIZE=ON "-DRSQUANT_ONLY=$(FUZZ_ISAS)" -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja)
	$(BIN)/cmake --build build/fuzz-c --target rsq-fuzz
	rm -rf build/fuzz-c/seeds && $(BIN)/python tests/fuzz/c_seeds.py build/fuzz-c/seeds
	ASAN_OPTIONS=allocator_may_return_null=1:max_allocation_size_mb=512 \
	  build/fuzz-c/rsq-fuzz build/fuzz-c/seeds $(C_FILES) $(C_FIRST) $(C_SEED)

# Every form of exported file in several versions of onnxruntime, in OpenVINO and in onnx's own
# checker: two minutes, and 1.2 GB of environments below build/matrix the first time.
matrix: env
	OMP_NUM_THREADS=1 $(BIN)/python tests/export/matrix.py --json build/matrix/matrix.json

# Which networks of torchvision and timm convert, train, pack and export, as build/packable/table.md: two hours the
# first time; timm is installed for it. A later run goes on where the last one stopped; ONLY="NAME ..." tries some again.
packable: env
	$(BIN)/python -m pip install --quiet --no-deps timm
	OMP_NUM_THREADS=1 $(BIN)/python bench/packable.py $(if $(ONLY),--only $(ONLY))

# Everything in bench/results that needs a CUDA GPU; PARTS="layers50 train50" for some of it.
bench-gpu: env
	bench/gpu.sh $(PARTS)

# dist/: the sdist, and the wheel of this platform, built from the sdist. The wheel is installed into
# an empty environment, with numpy alone, and runs a packed file there.
wheel: env
	rm -rf dist build/wheel
	$(BIN)/python -m build --outdir dist
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/python -m pip install --quiet dist/rsquant-*.whl
	build/wheel/bin/python -P tests/wheel/installed.py

# The API reference from the docstrings: build/docs/index.html.
docs: env
	$(BIN)/python docs/reference.py

# In a folder of its own that ignores itself, with the built-in set: nothing is downloaded.
demo: env
	mkdir -p .demo
	echo '*' > .demo/.gitignore
	cd .demo && ../$(BIN)/rsquant train --arch resnet18 --wbits 2 --abits 2 --exist-ok --name demo
	cd .demo && ../$(BIN)/rsquant eval
	cd .demo && ../$(BIN)/rsquant pack
	cd .demo && ../$(BIN)/rsquant export --all
	cd .demo && ../$(BIN)/rsquant bench

# Leaves .venv, runs/ and .data/ alone: they took someone time.
clean:
	rm -rf build dist .demo .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find rsquant tests -name __pycache__ -type d -prune -exec rm -rf {} +
