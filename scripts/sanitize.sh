#!/usr/bin/env bash
# The contract tests on a build of the CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer: every instruction set
# that this processor has, with 1, 2 and 5 threads.
#
#   scripts/sanitize.sh            # takes the python of the PATH, with vitsom_fast's requirements and its extra [test]
#   scripts/sanitize.sh -x         # arguments are pytest's
#
# Everything is built and run in a folder of its own, which is removed in the end; an installed vitsom_fast is not touched.
set -euo pipefail
cd "$(dirname "$0")/.."

tree="$(mktemp -d -t vitsom-sanitize.XXXXXX)"
trap 'rm -rf "$tree"' EXIT
trap 'exit 1' HUP INT TERM # which a shell would otherwise end on without cleaning up

cp -r vitsom_fast tests pyproject.toml "$tree"
cp -r kernels "$tree/vitsom_fast/kernels"
rm -f "$tree"/vitsom_fast/_cpu*.so

cmake -G Ninja -S csrc -B "$tree/build" -DCMAKE_BUILD_TYPE=Release -DPython_EXECUTABLE="$(command -v python)" \
  -Dpybind11_DIR="$(python -m pybind11 --cmakedir)" \
  -DCMAKE_CXX_FLAGS="-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g1"
cmake --build "$tree/build" --target _cpu
cp "$tree"/build/_cpu*.so "$tree/vitsom_fast"

# Python itself is not sanitized: the runtimes have to be there before it, and what it leaks is not ours.
module="$(echo "$tree"/vitsom_fast/_cpu*.so)"
runtimes="$(ldd "$module" | awk '/lib(clang_rt\.)?(a|ub)san/ { print $3 }' | paste -sd:)"
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
# More threads than cores: one that waits for the others must not keep them from running.
export OMP_WAIT_POLICY=passive
export PYTHONPATH="$tree" PYTHONDONTWRITEBYTECODE=1

sanitized() { (cd "$tree" && LD_PRELOAD="$runtimes" python "$@"); }

instruction_sets="$(sanitized -c '
import vitsom_fast._cpu as module, sys
assert module.__file__ == sys.argv[1], f"{module.__file__} is not the module built here"
print(*module.instruction_sets())' "$module")"

for isa in $instruction_sets; do
  for threads in 1 2 5; do
    echo "== $isa, $threads threads"
    # Capturing less than pytest would: a report is written right before the process ends.
    # Peak memory is another test's business: the sanitizers' own is many times that of a step.
    VITSOM_CPU_ISA="$isa" VITSOM_TEST_THREADS="$threads" sanitized -m pytest -q -p no:cacheprovider --capture=sys \
      tests/contract -k "cpu and not never_holds" "$@"
  done
  echo "== $isa, tiles of the map ruled out"
  VITSOM_CPU_ISA="$isa" sanitized -m pytest -q -p no:cacheprovider --capture=sys tests/cpu/test_pruning.py "$@"
done
