#!/usr/bin/env bash
# The tests of the CPU kernels on aarch64, emulated: the contract's, the adversarial ones and those of each search.
#
#   scripts/test-aarch64.sh            # takes the python of the PATH, with cmake, ninja and pybind11
#   scripts/test-aarch64.sh -x         # arguments are pytest's
#
# For Debian and its kin: what is missing of the emulator, the compiler and binutils is installed where this is run as root. A
# Python for aarch64 and its packages come from Debian and the package index, once, into a folder of the cache; of the system's own
# packages and sources nothing changes. An emulated Python takes half a minute to import PyTorch, and large maps minutes to be
# searched: of each test one case runs, and none of the slow ones.
set -euo pipefail
cd "$(dirname "$0")/.."

TORCH=torch==2.9.1 # the last whose wheel for aarch64 on the index is of the CPU alone: 104 MB, and no CUDA libraries to load
cache="${XDG_CACHE_HOME:-$HOME/.cache}/vitsom_fast/aarch64"
mkdir -p "$cache"

missing=()
command -v qemu-aarch64-static > /dev/null || missing+=(qemu-user-static)
command -v aarch64-linux-gnu-g++ > /dev/null || missing+=(g++-aarch64-linux-gnu)
command -v aarch64-linux-gnu-objdump > /dev/null || missing+=(binutils-aarch64-linux-gnu)
if [ ${#missing[@]} != 0 ]; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "skipped: ${missing[*]} missing (Debian packages, which root could install here)"
    exit 0
  fi
  apt-get update -qq && apt-get install -qq -y --no-install-recommends "${missing[@]}" > "$cache/install.log" 2>&1 || {
    echo "missing, and not to be installed: ${missing[*]} (see $cache/install.log)" >&2
    exit 1
  }
fi

# Python for aarch64, unpacked beside the system by a configuration of apt that knows of no other processor and no installed
# package, so that all that Python needs is fetched.
sysroot="$cache/sysroot"
if [ ! -d "$sysroot" ]; then
  apt="$cache/apt"
  rm -rf "$apt" "$sysroot.part"
  mkdir -p "$apt"/{sources,state/lists/partial,cache/archives/partial} "$sysroot.part"
  for list in $(grep -ls debian-archive-keyring /etc/apt/sources.list.d/* || true); do cp "$list" "$apt/sources"; done
  [ -n "$(ls "$apt/sources")" ] || grep debian /etc/apt/sources.list > "$apt/sources/debian.list"
  : > "$apt/status"
  cat > "$apt/apt.conf" << END
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Install-Recommends "false";
APT::Sandbox::User "";
Dir::State "$apt/state";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$apt/sources";
END
  APT_CONFIG="$apt/apt.conf" apt-get update -qq
  APT_CONFIG="$apt/apt.conf" apt-get install -qq -y --download-only python3 libstdc++6 libgomp1 > "$apt/install.log"
  for package in "$apt"/cache/archives/*.deb; do dpkg -x "$package" "$sysroot.part"; done
  rm -rf "$apt"
  mv "$sysroot.part" "$sysroot"
fi
interpreter="$(readlink -f "$sysroot/usr/bin/python3")"
version="${interpreter##*/python}"
if [ "$(python -c 'import sys; print("%d.%d" % sys.version_info[:2])')" != "$version" ]; then
  echo "the python of the PATH has to be $version as Debian's is: the module is compiled with its headers, got $(python -V)" >&2
  exit 1
fi

# PyTorch by itself, without what it would have pip fetch for this machine's processor; then its and our requirements.
packages="$cache/packages-$version-$TORCH"
if [ ! -d "$packages" ]; then
  rm -rf "$packages.part"
  wheels=(pip install --quiet --no-compile --only-binary=:all: --python-version "$version" --target "$packages.part")
  for tag in manylinux2014 manylinux_2_17 manylinux_2_26 manylinux_2_27 manylinux_2_28; do wheels+=(--platform "${tag}_aarch64"); done
  python -m "${wheels[@]}" --no-deps "$TORCH"
  python -m "${wheels[@]}" --upgrade filelock typing-extensions sympy networkx jinja2 fsspec \
    numpy "scikit-learn>=1.6" "safetensors>=0.4" pillow "matplotlib>=3.7" tqdm "pytest>=8" "hypothesis>=6"
  mv "$packages.part" "$packages"
fi

tree="$(mktemp -d -t vitsom-aarch64.XXXXXX)"
trap 'rm -rf "$tree"' EXIT
trap 'exit 1' HUP INT TERM # which a shell would otherwise end on without cleaning up

scripts/cross-compile-aarch64.sh "$tree/build"
python scripts/aarch64_loops.py "$tree/build"

cp -r vitsom_fast tests benchmarks pyproject.toml "$tree"
rm -rf "$tree/vitsom_fast/kernels" # which leads to the next
cp -r kernels "$tree/vitsom_fast/kernels"
rm -f "$tree"/vitsom_fast/_c*.so
cp "$tree"/build/_cpu*.so "$tree/vitsom_fast/_cpu.cpython-${version/./}-aarch64-linux-gnu.so" # named for this machine's Python

# Tests that start a process of their own are left out, since this machine's kernel would have to know of the emulator; and so is
# the search of adversarial maps by the hundred, which takes minutes.
cd "$tree"
export OMP_NUM_THREADS=2 PYTHONPATH="$tree:$packages" PYTHONPYCACHEPREFIX="$cache/bytecode"
qemu-aarch64-static -L "$sysroot" "$interpreter" -m pytest -q -k cpu --cases=1 -m "not slow" \
  tests/contract tests/ops/test_adversarial.py \
  tests/cpu/test_{pruning,grouped_search,add_nearest,small_search}.py \
  --ignore=tests/contract/test_composed.py \
  --deselect=tests/contract/test_repeatability.py::test_a_step_never_holds_one_number_per_sample_and_prototype \
  --deselect=tests/ops/test_adversarial.py::test_search_on_cpu "$@"
