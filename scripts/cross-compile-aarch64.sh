#!/usr/bin/env bash
# Builds the CPU module for aarch64 on another machine: that its sources are portable, and not only where they are written.
#
#   apt-get install g++-aarch64-linux-gnu   or   pip install ziglang
#   scripts/cross-compile-aarch64.sh [FOLDER]
#
# Without one of these it says so and succeeds. The module is built in FOLDER, or in one that is thrown away;
# scripts/test-aarch64.sh runs what is built.
set -euo pipefail
[ $# = 0 ] || build="$(mkdir -p "$1" && cd "$1" && pwd)"
cd "$(dirname "$0")/.."

if command -v aarch64-linux-gnu-g++ > /dev/null; then
  CXX=aarch64-linux-gnu-g++
elif python -c 'import ziglang' 2> /dev/null; then
  CXX="$(command -v python) -m ziglang c++ -target aarch64-linux-gnu"
else
  echo "skipped: no cross compiler for aarch64 (g++-aarch64-linux-gnu of apt, or ziglang of pip)"
  exit 0
fi
export CXX

if [ $# = 0 ]; then
  mkdir -p build # as far from the sources in every checkout: a compiler cache goes by the way to them
  build="$(mktemp -d "$PWD/build/aarch64.XXXXXX")"
  trap 'rm -rf "$build"' EXIT
  trap 'exit 1' HUP INT TERM # which a shell would otherwise end on without cleaning up
fi

# The headers of this machine's Python serve: their layout is that of any 64-bit Linux. CMake has to be told where they are, since
# g++ has it look for another processor's. pybind11 need not try link-time optimisation, which the module does without and zig takes
# minutes to answer.
cmake -G Ninja -S csrc -B "$build" -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
  -DPython_EXECUTABLE="$(command -v python)" -Dpybind11_DIR="$(python -m pybind11 --cmakedir)" \
  -DPython_INCLUDE_DIR="$(python -c 'import sysconfig; print(sysconfig.get_path("include"))')" \
  -DHAS_FLTO=OFF -DHAS_FLTO_THIN=OFF --no-warn-unused-cli
# What nobody runs need not be fast: with -O1 the compiler takes 0.6 of the time.
[ $# != 0 ] || sed -i 's/ -O3 / -O1 /g' "$build/build.ninja"
cmake --build "$build" --target _cpu

module="$(echo "$build"/_cpu*.so)"
python - "$module" << 'END'
import struct, sys

with open(sys.argv[1], "rb") as file:
    machine = struct.unpack("<H", file.read(20)[18:])[0]
assert machine == 183, f"{sys.argv[1]} is for ELF machine {machine}, not for aarch64 (183)"
END
echo "built for aarch64 by $CXX"
