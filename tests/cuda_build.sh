#!/bin/sh
# sh tests/cuda_build.sh [FOLDER]: builds against PyPI's CUDA wheel of torch (2.13.0, CUDA 13) on a machine with or
# without a GPU: configures, links, starts, computes on the processor, and takes --device cuda or refuses it in words.
# FOLDER (default build/cuda) holds the wheel, its libraries and the build: 7 GB, of which 3 GB are downloaded.
# MEDXAI_CUDA_TORCH names a torch folder to use instead.
set -u

top=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
folder=${1:-$top/build/cuda}
version=2.13.0
passed=0

say() { printf 'cuda: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }
ok() { printf 'ok    %s\n' "$*"; passed=$((passed + 1)); }

mkdir -p "$folder"
torch=${MEDXAI_CUDA_TORCH:-}
if [ -z "$torch" ]; then
  if [ ! -x "$folder/venv/bin/pip" ]; then python3 -m venv "$folder/venv" || fail "python3 has no venv"; fi
  # a torch without CUDA of a local folder must not win: PyPI alone
  PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS='' PIP_EXTRA_INDEX_URL='' "$folder/venv/bin/pip" install -q --no-cache-dir \
    --index-url https://pypi.org/simple "torch==$version" 'cuda-toolkit[crt]==13.0.3' >"$folder/pip.log" 2>&1 || {
      tail -n 3 "$folder/pip.log" >&2; fail "the wheel cannot be had"; }
  torch=$(echo "$folder"/venv/lib/python3*/site-packages/torch)
fi
[ -e "$torch/lib/libtorch_cuda.so" ] || fail "'$torch' is no torch with CUDA"
ok "PyPI's torch $version has CUDA"

cmake -S "$top" -B "$folder/build" -G Ninja -DCMAKE_BUILD_TYPE=Release "-DMEDXAI_TORCH=$torch" \
  >"$folder/cmake.log" 2>&1 ||
  { tail -n 5 "$folder/cmake.log" >&2; fail "CMake stopped"; }
grep -q "libtorch $version (CUDA; " "$folder/cmake.log" ||
  fail "CMake found no CUDA: $(grep libtorch "$folder/cmake.log")"
ok "configures: $(sed -n 's/^-- \(libtorch .*\) in .*/\1/p' "$folder/cmake.log")"
ninja -C "$folder/build" medxai-run medxai_core >"$folder/ninja.log" 2>&1 ||
  { grep -A5 FAILED "$folder/ninja.log" | head -n 20 >&2; fail "the build stopped"; }
if grep -q 'warning:' "$folder/ninja.log"; then grep 'warning:' "$folder/ninja.log" | head -n 5; fail "warnings"; fi
ok "builds and links without warnings"

program=$folder/build/medxai-run
said=$("$program" -e 'local t = require "medxai.torch" print(t.ones(2, 3):sum():item())' 2>&1)
[ "$said" = 6.0 ] || fail "it does not compute on the processor: $said"
ok "starts and computes on the processor"
code='local t = require "medxai.torch" print(t.ones(2, 3, { device = "cuda" }):sum():item())'
said=$("$program" --device cuda -e "$code" 2>&1)
case $said in
  6.0) ok "computes on the GPU" ;;
  *"host: device 'cuda' is not here: "*) ok "refuses --device cuda: ${said#*is not here: }" ;;
  *) fail "--device cuda is neither taken nor refused in words: $said" ;;
esac
printf 'cuda: %d passed\n' "$passed"
