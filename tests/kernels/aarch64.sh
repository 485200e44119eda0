#!/usr/bin/env bash
# Builds the package's libraries for aarch64 and runs the kernels' tests there, on any Linux machine:
#
#     tests/kernels/aarch64.sh FOLDER
#
# FOLDER gets what is built. Debian's packages cmake, g++-aarch64-linux-gnu and qemu-user have what it
# needs beside pytest; ONNXRUNTIME_ROOT names ONNX Runtime's headers for FlowWarp's kernel.
set -euo pipefail
folder=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$(dirname "$0")/../.."
export CXX=aarch64-linux-gnu-g++ GARMENT_TRANSFER_EMULATOR=qemu-aarch64

cmake -S . -B "$folder/package" -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
  -DCMAKE_BUILD_TYPE=Release -DGARMENT_TRANSFER_CUDA=OFF >/dev/null
cmake --build "$folder/package" -j >/dev/null
find "$folder/package" -name 'libgarment_transfer_*.so' -exec file {} +
pytest -q tests/kernels/test_sources.py -k "cpu_kernel or photos"
