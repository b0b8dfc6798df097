# The algorithms of kernels/cpu, compiled once for each instruction set: for the Python extension and
# for the C library. Sets `rsquant_isas` to the object libraries, and `rsquant_have` to what
# dispatch.cpp needs to be told.
#
# Everything else is compiled for the architecture's baseline, so that it runs on any processor of
# that architecture. Only the algorithm files are compiled once more per instruction set, with that
# set's flags, into the namespace rsquant::<isa>; dispatch.cpp chooses among them at run time.
#
# To add an instruction set: one line below, one line in RSQUANT_ISAS (table.h), one entry in
# dispatch.cpp. To add an algorithm: name its file in `algorithms`, or give an instruction set its
# own with SOURCES.

if(MSVC)
  message(FATAL_ERROR "rsquant's kernels use the vector extensions of GCC (12 or later) and Clang")
endif()

# For `make fuzz`: every access out of bounds ends the process.
option(RSQUANT_SANITIZE "Build with AddressSanitizer and UndefinedBehaviorSanitizer" OFF)
set(RSQUANT_ONLY "" CACHE STRING "Instruction sets to build; empty: all of the architecture")
set(RSQUANT_OPTIMIZE "" CACHE STRING "Flags in place of -O3, for builds that are to be quick")
set(optimize -O3)
if(RSQUANT_OPTIMIZE)
  set(optimize ${RSQUANT_OPTIMIZE})
endif()
if(RSQUANT_SANITIZE)
  set(optimize -O1)
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=all -g)
  add_link_options(-fsanitize=address,undefined)
endif()

set(rsquant_cpu ${CMAKE_CURRENT_LIST_DIR}/cpu)
set(algorithms quantize image image_bytes direct winograd depthwise bitplanes lookup epilogue pointwise
               sampling elementwise peak resample table)
list(TRANSFORM algorithms PREPEND ${rsquant_cpu}/)
list(TRANSFORM algorithms APPEND .cpp)
set(rsquant_isas "")
set(rsquant_have "")

function(rsquant_isa name)
  if(RSQUANT_ONLY AND NOT name IN_LIST RSQUANT_ONLY)
    return()
  endif()
  cmake_parse_arguments(arg "" "" "FLAGS;SOURCES" ${ARGN})
  add_library(isa_${name} OBJECT ${algorithms} ${arg_SOURCES})
  target_compile_features(isa_${name} PRIVATE cxx_std_20)
  # -ffp-contract=off: every instruction set must round alike, bit for bit.
  # -fno-exceptions, -fno-rtti: these files hold loops only; see the warning in kernels.h.
  target_compile_options(isa_${name} PRIVATE
    ${optimize} -ffp-contract=off -fno-exceptions -fno-rtti -fvisibility=hidden -Wall -Wextra ${arg_FLAGS})
  target_compile_definitions(isa_${name} PRIVATE RSQUANT_ISA=${name}
    RSQUANT_SIMD=simd_${name}.h)
  set_target_properties(isa_${name} PROPERTIES POSITION_INDEPENDENT_CODE ON)
  string(TOUPPER ${name} upper)
  set(rsquant_isas ${rsquant_isas} isa_${name} PARENT_SCOPE)
  set(rsquant_have ${rsquant_have} RSQUANT_HAVE_${upper} PARENT_SCOPE)
endfunction()

rsquant_isa(scalar)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  rsquant_isa(avx2 FLAGS -mavx2 -mfma -mpopcnt)
  # GCC 12's own AVX-512 header trips over its undefined-vector idiom.
  set(quiet -Wno-uninitialized -Wno-maybe-uninitialized)
  rsquant_isa(avx512 FLAGS ${quiet} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mpopcnt
                           -mprefer-vector-width=512)
  rsquant_isa(avx512vnni FLAGS ${quiet} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni
                               -mavx512vpopcntdq -mavx512vbmi -mavx2 -mfma -mpopcnt
                               -mprefer-vector-width=512)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64|ARM64)$")
  rsquant_isa(neon)  # part of the 64-bit ARM baseline: no flags
  rsquant_isa(neondot FLAGS -march=armv8.2-a+dotprod)
endif()
