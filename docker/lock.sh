#!/bin/sh
# Pin anew what is installed, with the SHA-256 of every file of each release: `make lock`.
#
# Pins that still fit stay; UPGRADE=1 takes newer releases. None of the last seven days is taken:
# a release that somebody slipped in is mostly found out in that time.
set -eu

uv="$1 -m uv"
pinned=build/lock.txt
torch='^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)=='

compile() {
  $uv pip compile -q --no-header --no-annotate --generate-hashes --exclude-newer '7 days' \
    ${UPGRADE:+--upgrade} "$@"
}

# Everything is resolved together; torch and what its CUDA build brings go into a file of their own.
mkdir -p build
cat constraints.txt docker/torch-constraints.txt >$pinned
grep -h 'torch==' docker/install-torch.sh | sed 's/^requirement=//' |
  compile --universal --python-version 3.11 --extra dev pyproject.toml -c - -o $pinned
split() { awk -v torch="$torch" -v wanted="$1" '/^[a-zA-Z0-9]/ { is = $0 ~ torch } is == wanted' $pinned; }
split 0 >constraints.txt
split 1 >docker/torch-constraints.txt

# Environments that are not the product's: the packages that they name already.
for file in docker/installers.txt docs/constraints.txt tests/audit/constraints.txt \
  tests/bench/peers.txt tests/walk/constraints.txt; do
  sed -n 's/^\([A-Za-z0-9_.-]*\)==.*/\1/p' $file | compile --no-deps - -o $file
done
