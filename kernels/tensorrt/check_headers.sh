#!/usr/bin/env bash
# Builds the plugin's libraries against TensorRT's public headers, checks what they export and need,
# and runs the plugin's test. Neither a GPU nor TensorRT's library is needed.
#
#   kernels/tensorrt/check_headers.sh HEADERS...
#
# HEADERS are folders with NvInferRuntime.h: `include` of NVIDIA's repository at a release, or of an
# installed TensorRT. NVCC and CUOBJDUMP name the tools where they are not found (the PyPI package
# nvidia-cuda-cuobjdump has the latter).

set -euo pipefail

architectures=(75 80 86 89 90 100 120)
ptx=120
exported="getCreators setLoggerFinder"
needed_on_load="getLogger getPluginRegistry"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
kernels=$(dirname "$here")
test_source=$(dirname "$kernels")/tests/kernels/plugin_test.cpp

fail() {
  echo "check_headers.sh: $*" >&2
  exit 1
}

headers=("$@")
((${#headers[@]})) || fail "no folder given; expected HEADERS..."
for folder in "${headers[@]}"; do
  [[ -f $folder/NvInferRuntime.h && -f $folder/NvInferVersion.h ]] ||
    fail "$folder has no NvInferRuntime.h and NvInferVersion.h; expected TensorRT's include folder"
done

nvcc=${NVCC:-nvcc}
command -v "$nvcc" >/dev/null || fail "nvcc is not found; put it on PATH or name it in NVCC"
nvcc_version=$("$nvcc" --version | sed -n 's/.*, V\([0-9.]*\)$/\1/p')
# `nvcc` may be a wrapper: it says itself where its tools lie
cuda_bin=$("$nvcc" --dryrun -x cu /dev/null 2>&1 | sed -n 's/^#\$ _HERE_=//p')
cuobjdump=${CUOBJDUMP:-$cuda_bin/cuobjdump}
[[ -x $cuobjdump ]] || cuobjdump=$(command -v cuobjdump) ||
  fail "cuobjdump is neither in $cuda_bin nor on PATH; name it in CUOBJDUMP"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

compile=("$nvcc" -std=c++17 -O2 -I"$kernels" -I"$kernels/flow_warp" -Werror all-warnings
  -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra,-Werror)
# without the device link, whose empty images cuobjdump would list beside the kernels'
link=("$nvcc" -cudart static -nodlink)

codes=()
for a in "${architectures[@]}"; do
  codes+=(-gencode "arch=compute_$a,code=sm_$a")
done
codes+=(-gencode "arch=compute_$ptx,code=compute_$ptx")
echo "nvcc $nvcc_version: the kernels for sm ${architectures[*]} and PTX $ptx"
"${compile[@]}" "${codes[@]}" -c "$kernels/flow_warp/flow_warp_cuda.cu" -o "$work/kernels.o"

# Words on one line, sorted.
words() { sort -u | xargs; }

# What "$1" needs of TensorRT: everything undefined that no library of the system versions.
undefined() { nm -D --undefined-only "$1" | awk '$1 == "U" && $2 !~ /@/ {print $2}' | words; }

# The architectures in cuobjdump's list of images, on one line.
code_of() { sed -n 's/.*\.\(sm_[0-9a-z]*\)\..*/\1/p' | sort -uV | xargs; }

for folder in "${headers[@]}"; do
  version=$(printf '#include <NvInferVersion.h>\n%s\n' \
    'NV_TENSORRT_MAJOR.NV_TENSORRT_MINOR.NV_TENSORRT_PATCH.NV_TENSORRT_BUILD' |
    g++ -E -P -x c++ -isystem "$folder" - | tail -n 1 | tr -d ' ')
  [[ $version =~ ^[0-9]+(\.[0-9]+){3}$ ]] ||
    fail "$folder/NvInferVersion.h gives the version '$version'; expected four numbers"
  echo "TensorRT $version"
  for source in flow_warp_plugin register; do
    "${compile[@]}" -isystem "$folder" -c "$here/$source.cpp" -o "$work/$source.o"
  done
  "${compile[@]}" -isystem "$folder" -DGT_REGISTER_ON_LOAD -c "$here/register.cpp" \
    -o "$work/register_on_load.o"

  library=$work/libgarment_transfer_tensorrt.so
  on_load=$work/libgarment_transfer_tensorrt_onload.so
  shared=("${link[@]}" -shared -Xlinker --exclude-libs,ALL)
  "${shared[@]}" "$work"/{kernels,flow_warp_plugin,register}.o -o "$library"
  "${shared[@]}" "$work"/{kernels,flow_warp_plugin,register_on_load}.o -o "$on_load"

  found=$(nm -D --defined-only "$library" | awk '{print $3}' | words)
  [[ $found == "$exported" ]] || fail "the library exports '$found'; expected '$exported'"
  found=$(nm -D --defined-only "$on_load" | awk '{print $3}' | words)
  [[ -z $found ]] || fail "the library that registers on load exports '$found'; expected nothing"
  found=$(undefined "$library")
  [[ -z $found ]] || fail "the library needs '$found' of TensorRT; expected nothing"
  found=$(undefined "$on_load")
  [[ $found == "$needed_on_load" ]] ||
    fail "the library that registers on load needs '$found'; expected '$needed_on_load'"
  echo "  exports: $exported; with registration on load it needs: $needed_on_load"

  elf=$("$cuobjdump" --list-elf "$library" | code_of)
  ptx_found=$("$cuobjdump" --list-ptx "$library" | code_of)
  expected=$(printf 'sm_%s ' "${architectures[@]}")
  [[ "$elf " == "$expected" && $ptx_found == "sm_$ptx" ]] ||
    fail "the library has code for '$elf' and PTX of '$ptx_found'; expected '$expected', sm_$ptx"
  size=$(stat -c %s "$library")
  echo "  code: $elf; PTX: $ptx_found; $size bytes"

  "${compile[@]}" -isystem "$folder" -c "$test_source" -o "$work/test.o"
  "${link[@]}" "$work"/{kernels,flow_warp_plugin,register,test}.o -o "$work/plugin_test"
  result=$("$work/plugin_test" 2>"$work/stderr") || {
    cat "$work/stderr" >&2
    fail "plugin_test failed against TensorRT $version: $result"
  }
  echo "  $(tail -n 1 <<<"$result")"
done
