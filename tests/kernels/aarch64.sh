#!/usr/bin/env bash
# Builds the package's libraries for aarch64 and runs the kernels' tests there, on any Linux machine:
#
#     tests/kernels/aarch64.sh FOLDER [RUNS]
#
# FOLDER gets what is built; RUNS are the random calls of Fit and Compose (1000). Debian's packages
# cmake, g++-aarch64-linux-gnu and qemu-user have what it needs; ONNXRUNTIME_ROOT names ONNX Runtime's
# headers for FlowWarp's kernel.
set -euo pipefail
folder=$(mkdir -p "$1" && cd "$1" && pwd) runs=${2:-1000}
cd "$(dirname "$0")/../.."
compiler=aarch64-linux-gnu-g++

cmake -S . -B "$folder/package" -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
  -DCMAKE_CXX_COMPILER=$compiler -DCMAKE_BUILD_TYPE=Release -DGARMENT_TRANSFER_CUDA=OFF >/dev/null
cmake --build "$folder/package" -j >/dev/null
find "$folder/package" -name 'libgarment_transfer_*.so' -exec file {} +

options=(-std=c++20 -O2 -static -Wall -Wextra -Werror -Wno-psabi -Wno-unknown-pragmas -ffp-contract=off
  -fno-trapping-math -fno-math-errno -Ikernels -Ikernels/photos -Ikernels/flow_warp -Itests/kernels
  -Itests/cpp/double)
"$compiler" "${options[@]}" tests/kernels/flow_warp_cpu_test.cpp kernels/flow_warp/flow_warp_cpu.cpp \
  -o "$folder/flow_warp_cpu_test" -pthread
"$compiler" "${options[@]}" -DGT_PHOTOS_WITH_CUDA tests/kernels/photos_test.cpp \
  tests/kernels/photos_on_cpu.cpp kernels/{compose/compose_cpu,fit/fit_cpu,remove_arms/remove_arms_cpu,photos/photos}.cpp \
  -o "$folder/photos_test" -pthread
qemu-aarch64 "$folder/flow_warp_cpu_test"
qemu-aarch64 "$folder/photos_test" "$runs"
