#!/bin/sh
# sh tests/device.sh [--device cuda] [--smoke]: everything that needs a GPU, in one command, within 8 minutes, without a
# network: the tests of devices, training of the seven networks and explanations beside PyTorch and the usual packages
# on the same GPU, and one table at the end. Without a GPU it says why and ends with status 0.
#   --device cpu --smoke   the same on this processor in a small form: a test of this file
#   pack                   puts the built program and the libraries that it needs, but libtorch, into .device/, to be
#                          carried to the GPU machine with the sources; there libtorch is that of its Python's torch
# MEDXAI_PYTHON names the Python of the other side (default python3), MEDXAI_PROGRAM another medxai-run.
set -u

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
top=$(CDPATH='' cd -- "$here/.." && pwd -P)
carried=$top/.device
python=${MEDXAI_PYTHON:-python3}
device=cuda
size=full
began=$(date +%s)

say() { printf 'device: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# ---- what is carried along ----

# Libraries of the program and the core that another Linux may lack: not libtorch's, CUDA's and the C library's own.
pack() {
  built=$(dirname -- "${MEDXAI_PROGRAM:-$top/build/medxai-run}")
  [ -x "$built/medxai-run" ] || fail "build the program first (./bootstrap --torch DIR build)"
  rm -rf "$carried"
  mkdir -p "$carried/lib" "$carried/lua"
  cp "$built/medxai-run" "$built/medxai_core.so" "$carried/"
  for file in "$carried/medxai-run" "$carried/medxai_core.so"; do ldd "$file"; done |
    awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u |
    grep -Ev '/lib(torch|c10|cud|cublas|cufft|curand|cusolver|cusparse|cufile|cupti|nccl|nv|shm|c\.so|m\.so|dl\.so)' |
    grep -Ev '/(libpthread|librt|ld-linux|libstdc\+\+|libgcc_s|libgomp)' |
    while read -r library; do cp -L "$library" "$carried/lib/"; done
  for module in lfs.so cjson.so argparse.lua; do
    found=$(find /usr/lib /usr/share/lua -path "*5.4/$module" 2>/dev/null | head -n 1)
    [ -z "$found" ] || cp -L "$found" "$carried/lua/"
  done
  say "packed $(du -sh "$carried" | cut -f1) into .device/ ($("$built/medxai-run" --version))"
}

# ---- the run ----

run_ours() { "$program" --threads "$(nproc)" --device "$device" "$@"; }

# A step of the table: its name, then the command; what fails is counted and the rest goes on.
failed=
step() {
  name=$1
  shift
  if "$@"; then :; else failed="$failed $name"; fi
  say "$name: $(($(date +%s) - began)) s so far"
}

choose_program() {
  program=${MEDXAI_PROGRAM:-$top/build/medxai-run}
  if [ -z "${MEDXAI_PROGRAM:-}" ] && [ -x "$carried/medxai-run" ]; then
    program=$carried/medxai-run
    torch=$("$python" -c 'import os, torch; print(os.path.dirname(torch.__file__))') || fail "$python has no torch"
    LD_LIBRARY_PATH=$carried/lib:$torch/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    LUA_CPATH_5_4="$carried/lua/?.so;;"
    LUA_PATH_5_4="$carried/lua/?.lua;;"
    MEDXAI_SCRIPTS=$top/scripts
    export LD_LIBRARY_PATH LUA_CPATH_5_4 LUA_PATH_5_4 MEDXAI_SCRIPTS
  fi
  [ -x "$program" ] || fail "there is no program: ./bootstrap --torch DIR build, or pack on the machine that built it"
}

tests() { MEDXAI_TEST_DEVICE=$device run_ours "$top/tests/run.lua" device_ optim_ >"$out/tests" 2>&1; code=$?
  tail -n 1 "$out/tests"; [ $code -eq 0 ] || { grep -A3 '^FAIL' "$out/tests"; return 1; }; }

# Both sides of a work, ours first; a side that fails leaves its lines out.
both() {
  run_ours "$here/device/work.lua" "$@" >>"$out/ours" || return 1
  "$python" "$here/device/work.py" "$device" "$@" >>"$out/theirs" || say "no other side ($1)"
}

table() {
  awk -F '\t' '
    FILENAME == ARGV[1] { theirs[$1 $2] = $3; peak[$1 $2] = $4; next }
    FNR == 1 { printf "%-8s %-16s %-10s %10s %10s %6s %8s %8s\n", "", "", "unit", "ours", "theirs", "ratio", "MB",
      "MB" }
    {
      other = theirs[$1 $2]
      ratio = other == "" ? "-" : sprintf("%.2f", $1 == "train" ? $3 / other : other / $3)
      printf "%-8s %-16s %-10s %10s %10s %6s %8s %8s\n", $1, $2, $1 == "train" ? "images/s" : "s/image", $3,
        other == "" ? "-" : other, ratio, $4, other == "" ? "-" : peak[$1 $2]
    }' "$out/theirs" "$out/ours"
}

while [ $# -gt 0 ]; do
  case $1 in
    pack) pack; exit ;;
    --device) [ $# -ge 2 ] || fail "--device needs a value"; device=$2; shift 2 ;;
    --smoke) size=smoke; shift ;;
    *) fail "unknown word '$1' (--device NAME, --smoke, pack)" ;;
  esac
done

choose_program
why=$("$program" --device "$device" -e 'require "medxai.core"' 2>&1) || {
  case $why in
    *"is not here: "*) printf 'skipped: no CUDA device: %s\n' "${why#*is not here: }"; exit 0 ;;
  esac
  fail "the program does not start: $why"
}

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
: >"$out/theirs"
: >"$out/ours"
trained='squeezenet1_0 mobilenet_v2 efficientnet_b0 densenet121 resnet50 inception_v3 vgg19'
explained=resnet50
if [ $size = smoke ]; then trained=squeezenet1_0 explained=squeezenet1_0; fi
command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
"$program" --version
step tests tests
# shellcheck disable=SC2086  # lists of names
for network in $trained; do step "train $network" both train $size "$network"; done
step explain both explain $size $explained
table
printf 'device: %s s on %s, failed:%s\n' "$(($(date +%s) - began))" "$device" "${failed:- nothing}"
[ -z "$failed" ]
