#!/bin/sh
# Install the pinned torch into the virtual environment whose Python is $1.
#
# TORCH_BUILD=auto (default)  the CUDA build where `nvidia-smi -L` lists a GPU, else the CPU build
# TORCH_BUILD=cpu | cuda      that build
#
# What comes from the package index must have a hash of docker/torch-constraints.txt. Of the CPU
# build for Linux only the version is fixed: its wheels lie elsewhere, with hashes of their own.
#
# On Linux the package index serves the CUDA build under the plain version, so the CPU build is
# taken (1) from whatever pip is configured to find, if that is a +cpu wheel, or else (2) through
# uv, which knows where PyTorch keeps its CPU wheels. Nothing else is ever downloaded for a CPU.
set -eu

python=$1
requirement=torch==2.13.0
build=${TORCH_BUILD:-auto}

if [ "$build" = auto ]; then
  if nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then build=cuda; else build=cpu; fi
fi

case "$build" in
  cpu | cuda) ;;
  *) echo "TORCH_BUILD must be auto, cpu or cuda, got '$build'" >&2; exit 2 ;;
esac

installed=$("$python" -c 'import importlib.metadata as m; print(m.version("torch"))' 2>/dev/null || true)
case "$build:$installed" in
  cpu:2.13.0+cpu | cuda:2.13.0 | cuda:2.13.0+cu*) exit 0 ;;
esac

if [ "$build" = cuda ] || [ "$(uname -s)" != Linux ]; then
  exec "$python" -m pip install -q --no-deps --require-hashes -r docker/torch-constraints.txt
fi

found=$("$python" -m pip install -q --dry-run --ignore-installed --no-deps --report - "$requirement" 2>/dev/null |
  "$python" -c 'import json, sys; print(json.load(sys.stdin)["install"][0]["metadata"]["version"])' 2>/dev/null || true)
case "$found" in
  *+cpu) exec "$python" -m pip install -q --no-deps "$requirement" ;;
esac

"$python" -m uv pip install -q --python "$python" --torch-backend cpu "$requirement" && exit 0
cat >&2 <<'END'
The CPU build of torch 2.13.0 could not be fetched: PyTorch's wheel index does not answer.
Put the CPU wheel in a folder and run again with PIP_FIND_LINKS=<folder>,
or accept the CUDA build from the package index (several GB) with TORCH_BUILD=cuda.
END
exit 3
