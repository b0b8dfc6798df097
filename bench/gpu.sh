#!/usr/bin/env bash
# Every measurement on a CUDA GPU, in parts that do not need each other:
#
#   bench/gpu.sh                 all parts whose files are not there yet
#   bench/gpu.sh layers50 train18    these parts
#
# Each part writes OUT/gpu_PART_DEVICE.json (layers also a .png) when it is through; a part that was
# cut off is done again by the next call, one that is there is not, unless FORCE=1. Kernels that
# were compiled and tuned before are not compiled again.
#
#   PYTHON   the interpreter; .venv/bin/python if there is one, else python3
#   OUT      default bench/results
#   SECONDS_EACH  budget of the timing of a part, default 30; preparing takes its own time
#   LIMIT    seconds after which a part is given up, default 590
#   DEVICE   default cuda
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ -z "${PYTHON:-}" ]; then
  PYTHON=python3
  [ -x .venv/bin/python ] && PYTHON=.venv/bin/python
fi
OUT=${OUT:-bench/results}
DEVICE=${DEVICE:-cuda}

name=$("$PYTHON" -c '
import re, sys, torch
if not torch.cuda.is_available():
    sys.exit("error: PyTorch finds no CUDA device")
print(re.sub("[^a-z0-9]+", "_", torch.cuda.get_device_name(sys.argv[1]).lower()).strip("_"))
' "$DEVICE") || exit 2
mkdir -p "$OUT"

bench() { # part, then what of rsquant bench, and its arguments
  local part=$1 kind=$2 file="$OUT/gpu_$1_$name"
  shift 2
  if [ -e "$file.json" ] && [ "${FORCE:-0}" != 1 ]; then
    echo "== $part: $file.json is there"
    return 0
  fi
  local plot=()
  case $part in layers*) plot=(--plot "$file.png") ;; esac
  local start=$SECONDS
  echo "== $part: rsquant bench $kind --device $DEVICE $*"
  timeout "${LIMIT:-590}" "$PYTHON" -c 'from rsquant.cli import main; main()' \
    bench "$kind" --device "$DEVICE" "$@" --seconds "${SECONDS_EACH:-30}" --exist-ok \
    --json "$file.json" "${plot[@]}"
  local status=$?
  echo "== $part: status $status after $((SECONDS - start)) s"
  return $status
}

# The engines of whole networks; float16's post-activation form is left out for time.
engines=gpu,cudnn_bf16,cudnn_fp16,cudnn_bf16_post

run() {
  case $1 in
    networks50) bench "$1" networks --arch resnet50 --resolutions 224 --engines $engines ;;
    networks18) bench "$1" networks --arch resnet18 --resolutions 224 --engines $engines ;;
    sizes50) bench "$1" networks --arch resnet50 --batch 128 --engines $engines ;;
    sizes18) bench "$1" networks --arch resnet18 --batch 128 --engines $engines ;;
    layers50) bench "$1" kernels --arch resnet50 --resolutions 224 --batch 1,32,128 ;;
    layers18) bench "$1" kernels --arch resnet18 --resolutions 224 --batch 1,32,128 ;;
    train50) bench "$1" training --arch resnet50 ;;
    train18) bench "$1" training --arch resnet18 ;;
    *)
      echo "error: no part '$1'; there are: ${all[*]}" >&2
      return 2
      ;;
  esac
}

# What matters most comes first.
all=(networks50 layers50 train50 networks18 layers18 train18 sizes50 sizes18)
[ $# -gt 0 ] && parts=("$@") || parts=("${all[@]}")
failed=()
for part in "${parts[@]}"; do
  run "$part" || failed+=("$part")
done
if [ ${#failed[@]} -gt 0 ]; then
  echo "error: not done: ${failed[*]}" >&2
  exit 1
fi
