#!/bin/sh
# ./bootstrap parity [PART ...] [-- NETWORK ...]: compares the program with PyTorch on this machine and prints tables.
# Parts: networks checkpoints data exported cam perturb training tensorboard statistics compare (default: all). Makes
# the Python side where it is absent: environment a
# is Debian's torch 1.13.1 with pytorch-grad-cam in a venv; b is PyPI's torch 2.13.0 (left out where it cannot be had).
# MEDXAI_REF_A and MEDXAI_REF_B name Pythons to use instead. Status 1 when a cell fails; the last line counts cells.
set -u

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
top=$(CDPATH='' cd -- "$here/../.." && pwd -P)
program=$top/build/medxai-run
work=$top/build/reference
data=${MEDXAI_SHARED:-$top/../shared}/data/covid-cxr
threads=$(nproc)
OMP_NUM_THREADS=$threads
export OMP_NUM_THREADS
mkdir -p "$work"

say() { printf 'parity: %s\n' "$*" >&2; }

imports() { PYTHONPATH=$here "$1" -c "$2" >/dev/null 2>&1; }

apt() { # as root, or through sudo
  if [ "$(id -u)" -eq 0 ]; then apt-get -q -y "$@"; else sudo apt-get -q -y "$@"; fi
}

# ---- Python ----

setup_a() {
  a=${MEDXAI_REF_A:-$work/a/bin/python}
  imports "$a" 'import torch, torchvision, PIL, pytorch_grad_cam, skimage, lime' && return 0
  [ -z "${MEDXAI_REF_A:-}" ] || { say "$a lacks torch, torchvision, Pillow, grad-cam, scikit-image or lime"; return 1; }
  say "environment a: Debian's python3-torch and python3-torchvision, grad-cam 1.5.7 and lime 0.2.0.1" \
    "in build/reference/a"
  if ! imports /usr/bin/python3 'import torch, torchvision, PIL, cv2, sklearn, skimage, venv, ensurepip'; then
    { apt update && apt install --no-install-recommends python3-torch python3-torchvision python3-pil python3-opencv \
      python3-sklearn \
      python3-skimage python3-matplotlib python3-venv python3-pip; } >"$work/a.log" 2>&1 || {
        tail -n 5 "$work/a.log" >&2; return 1; }
  fi
  { /usr/bin/python3 -m venv --system-site-packages "$work/a" &&
    "$work/a/bin/pip" install -q --no-deps grad-cam==1.5.7 ttach tqdm lime==0.2.0.1; } >>"$work/a.log" 2>&1 || {
      tail -n 5 "$work/a.log" >&2; return 1; }
}

setup_b() { # may fail: its parts are then left out
  b=${MEDXAI_REF_B:-$work/b/bin/python}
  imports "$b" 'import torch; from vision import torchvision; import safetensors, skimage, shap, cv2
import tensorboard, captum, pytorch_grad_cam' && return 0
  [ -z "${MEDXAI_REF_B:-}" ] || {
    say "$b lacks torch, torchvision, safetensors, scikit-image, shap, OpenCV, tensorboard, captum or grad-cam"
    return 1; }
  [ ! -e "$work/b.failed" ] || return 1
  say "environment b: torch 2.13.0 in build/reference/b"
  { /usr/bin/python3 -m venv "$work/b" &&
    { "$work/b/bin/pip" install -q torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu ||
      "$work/b/bin/pip" install -q torch==2.13.0; } &&
    "$work/b/bin/pip" install -q numpy pillow safetensors scikit-image==0.26.0 shap==0.51.0 opencv-python-headless \
      tensorboard &&
    "$work/b/bin/pip" install -q --no-deps torchvision==0.28.0 captum==0.9.0 grad-cam==1.5.7 ttach &&
    "$work/b/bin/pip" install -q scikit-learn matplotlib tqdm packaging; } >"$work/b.log" 2>&1 && return 0
  say "environment b cannot be made (build/reference/b.log); remove build/reference/b.failed to try again"
  : >"$work/b.failed"
  return 1
}

# The Python whose libtorch is the program's.
choose_peer() {
  ours=$("$program" -e 'print(require("medxai.core").tensor.torch_version())' | cut -d. -f1,2)
  for peer in "$a" "${b:-}"; do
    [ -n "$peer" ] || continue
    theirs=$("$peer" -c 'import torch; print(".".join(torch.__version__.split(".")[:2]))' 2>/dev/null) || continue
    [ "$theirs" != "$ours" ] || return 0
  done
  say "no Python has the program's libtorch $ours: float32 cannot be equal to the last bit"
  peer=$a
}

ours() { "$program" --threads "$threads" "$top/tests/run.lua" "$@"; }

# ---- parts ----

part_networks() {
  # shellcheck disable=SC2086
  "$peer" "$here/networks.py" "$work/networks" --threads "$threads" $networks &&
    MEDXAI_PARITY_DIR=$work/networks ours parity_networks
}

part_checkpoints() {
  list=${networks:-squeezenet1_0 mobilenet_v2 efficientnet_b0 densenet121 resnet50 inception_v3 vgg19}
  code=0
  for name in $list; do # one at a time: vgg19's five files take 2.7 GB
    rm -rf "$work/checkpoints"
    "$a" "$here/networks_files.py" write "$work/checkpoints" "$name" || return 1
    [ -z "${b:-}" ] || "$b" "$here/networks_files.py" more "$work/checkpoints" "$name" || code=1
    MEDXAI_CHECKPOINTS_DIR=$work/checkpoints ours "parity_checkpoints.*$name" || code=1
    "$a" "$here/networks_files.py" open "$work/checkpoints" || code=1
    [ -z "${b:-}" ] || "$b" "$here/networks_files.py" open "$work/checkpoints" || code=1
  done
  rm -rf "$work/checkpoints"
  return $code
}

# Sixteen exported networks of four families: what environment b's torch computes with them; and weights of a trained
# one
# back in Python. To the last bit where the program's libtorch is that torch's.
part_exported() {
  [ -n "${b:-}" ] || { say "no environment b: exported is left out"; return 0; }
  imports "$b" 'from vision import torchvision; import timm, torchxrayvision, monai' || {
    say "timm, TorchXRayVision and MONAI in environment b"
    "$b" -m pip install -q --no-deps timm==1.0.31 torchxrayvision==1.5.7 monai==1.6.1 >>"$work/b.log" 2>&1
    "$b" -m pip install -q huggingface_hub pyyaml requests tqdm pandas imageio scikit-image >>"$work/b.log" 2>&1
  }
  list=${networks:-tv_resnet18 tv_mobilenet_v3_small tv_convnext_tiny tv_swin_t tv_vit timm_vit_tiny_patch16_224 \
    timm_swin_tiny_patch4_window7_224 timm_convnextv2_atto timm_efficientnet_b0 timm_eva02_tiny_patch14_224 \
      timm_levit_128s \
    timm_resnet26 xrv_densenet monai_densenet121 monai_vit monai_efficientnet}
  for name in $list; do
    [ -e "$work/exported/$name.pt" ] || "$b" "$here/exported.py" "$work/exported" "$name" 2>"$work/exported.log" || {
      tail -n 5 "$work/exported.log" >&2; return 1; }
  done
  theirs=$("$b" -c 'import torch; print(torch.__version__.split("+")[0])')
  bits=0
  [ "$("$program" -e 'print(require("medxai.core").tensor.torch_version())')" != "$theirs" ] || bits=1
  code=0
  MEDXAI_EXPORTED_DIR=$work/exported MEDXAI_EXPORTED_BITS=$bits ours parity_exported || code=1
  rm -rf "$work/exported-run"
  "$program" --quiet --threads 1 --out "$work/exported-run" "$here/exported_train.lua" "$here/exported/convnet.pt2" \
    >/dev/null &&
    "$b" "$here/exported.py" open "$work/exported-run" convnet || code=1
  return $code
}

part_data() {
  command -v cjpeg >/dev/null || apt install --no-install-recommends libjpeg-turbo-progs >>"$work/a.log" 2>&1
  "$a" "$here/resize.py" --all "$work/pictures" && "$a" "$here/jpeg.py" --all "$work/jpeg" "$data" 2>"$work/jpeg.log" &&
    MEDXAI_PICTURES_DIR=$work/pictures MEDXAI_JPEG_DIR=$work/jpeg ours parity_data
}

seven() { echo "${networks:-squeezenet1_0 mobilenet_v2 efficientnet_b0 densenet121 resnet50 inception_v3 vgg19}"; }

# The networks trained a little, their images, and Grad-CAM; all CAMs of pytorch-grad-cam (about an hour on two cores,
# kept in
# build/reference); captum's attributions where environment b is at hand.
cam_maps() {
  for name in $(seven); do
    [ -e "$work/gradcam/$name/info.json" ] || "$a" "$here/gradcam.py" "$work/gradcam" "$data" "$name" || return 1
    [ -e "$work/cam/$name/cells.json" ] || "$a" "$here/cam.py" networks "$work/cam" "$work/gradcam" "$name" \
      2>"$work/cam.log" || { tail -n 5 "$work/cam.log" >&2; return 1; }
    [ -z "${b:-}" ] || [ -e "$work/cam/$name/captum.saliency.npy" ] ||
      "$b" "$here/attributions.py" networks "$work/cam" "$work/gradcam" "$name" || return 1
  done
  [ -n "${b:-}" ] || say "no environment b: captum's cells are left out"
  MEDXAI_CAM_DIR=$work/cam MEDXAI_GRADCAM_DIR=$work/gradcam ours 'parity_cam$'
}

# Metrics of maps, Sobel, pictures of guided backprop.
cam_scores() {
  for name in $(seven); do
    [ -e "$work/cam_scores/$name/scores.json" ] ||
      "$a" "$here/cam_scores.py" "$work/cam_scores" "$work/gradcam" "$name" || return 1
  done
  MEDXAI_CAM_SCORES_DIR=$work/cam_scores MEDXAI_GRADCAM_DIR=$work/gradcam ours parity_cam_scores
}

part_cam() {
  [ -d "$data" ] || { say "no $data: cam is left out"; return 0; }
  code=0
  cam_maps || code=1
  cam_scores || code=1
  return $code
}

# Superpixels on both versions of scikit-image, LIME on the networks (lime is the same in both environments).
part_perturb() {
  [ -d "$data" ] || { say "no $data: perturb is left out"; return 0; }
  dirs=
  for which in a b; do
    eval "python=\${$which:-}"
    [ -n "$python" ] || continue
    dirs="$dirs $work/perturb/segments-$which"
    [ -e "$work/perturb/segments-$which/jobs.lua" ] ||
      "$python" "$here/perturb_segments.py" "$work/perturb/segments-$which" "$data" || return 1
  done
  code=0
  MEDXAI_SEGMENTS_DIRS=$dirs ours parity_segments || code=1
  for name in ${networks:-squeezenet1_0 mobilenet_v2 efficientnet_b0 densenet121 resnet50 inception_v3 vgg19}; do
    [ -e "$work/perturb/lime/$name/jobs.lua" ] ||
      "$a" "$here/perturb_lime.py" "$work/perturb/lime" "$data" "$name" 2>/dev/null || return 1
  done
  MEDXAI_LIME_DIRS=$work/perturb/lime ours parity_lime || code=1
  [ -n "${b:-}" ] || { say "no environment b: SHAP is left out"; return $code; }
  for name in ${networks:-squeezenet1_0 mobilenet_v2 efficientnet_b0 densenet121 resnet50 inception_v3 vgg19}; do
    [ -e "$work/perturb/shap/$name/masks.lua" ] ||
      "$b" "$here/shap_values.py" "$work/perturb/shap" "$work/perturb/lime" "$name" || return 1
  done
  MEDXAI_SHAP_DIR=$work/perturb/shap MEDXAI_LIME_DIRS=$work/perturb/lime ours parity_shap || code=1
  return $code
}

part_training() {
  [ -d "$data" ] || { say "no $data: training is left out"; return 0; }
  list=${networks:-squeezenet1_0 resnet50 mobilenet_v2}
  # shellcheck disable=SC2086
  "$program" --threads "$threads" "$here/training.lua" "$work/training" "$data" "${MEDXAI_PARITY_STEPS:-20}" $list &&
    "$peer" "$here/training.py" "$work/training" "$threads" $list
}

# A training that was killed and went on, read by TensorBoard's own reader: every epoch once, the numbers of
# metrics.jsonl.
part_tensorboard() {
  [ -n "${b:-}" ] || { say "no environment b: tensorboard is left out"; return 0; }
  folder=$work/tensorboard
  rm -rf "$folder"
  mkdir -p "$folder"
  "$program" --quiet --threads 1 --out "$folder/run" "$here/events.lua" >/dev/null & pid=$!
  while kill -0 $pid 2>/dev/null && [ "$(cat "$folder/run/metrics.jsonl" 2>/dev/null | wc -l)" -lt 3 ]; do
    sleep 0.05
  done
  kill -9 $pid 2>/dev/null
  wait $pid 2>/dev/null
  "$program" --quiet --threads 1 --out "$folder/run" "$here/events.lua" >/dev/null &&
    "$b" "$here/events.py" check "$folder/run"
}

# The statistics of the comparison on twenty cases of each kind; an environment of its own, without torch.
part_statistics() {
  s=$work/s/bin/python
  packages='numpy pandas scipy scikit-learn statsmodels pingouin scikit-image'
  if ! (cd / && "$s" -c 'import pingouin, statsmodels, skimage, sklearn, rocauc_comparison') >/dev/null 2>&1; then
    say "environment s: $packages and rocauc-comparison in build/reference/s"
    # shellcheck disable=SC2086
    { /usr/bin/python3 -m venv "$work/s" && "$work/s/bin/pip" install -q $packages &&
      "$work/s/bin/pip" install -q --no-deps rocauc-comparison==0.1.1; } >"$work/s.log" 2>&1 || {
        tail -n 5 "$work/s.log" >&2; return 1; }
  fi
  "$s" "$here/stats_peers.py" "$work/stats_peers.json" 20 &&
    MEDXAI_STATS_PEERS=$work/stats_peers.json ours stats_reference
}

# The metrics of run:compare against Quantus 0.6.0 and captum, on a tiny network; in an environment of its own, with
# torchvision, whose networks ./bootstrap bench compare uses.
setup_c() {
  c=${MEDXAI_REF_C:-$work/c/bin/python}
  imports "$c" 'import quantus, captum; from vision import torchvision' && return 0
  [ -z "${MEDXAI_REF_C:-}" ] || { say "$c lacks quantus, captum or torchvision"; return 1; }
  say "environment c: torch 2.13.0, torchvision 0.28.0, Quantus 0.6.0 and captum 0.9.0 in build/reference/c"
  { /usr/bin/python3 -m venv "$work/c" &&
    { "$work/c/bin/pip" install -q torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu ||
      "$work/c/bin/pip" install -q torch==2.13.0; } &&
    "$work/c/bin/pip" install -q numpy pandas scipy scikit-image scikit-learn matplotlib tqdm cachetools \
      opencv-python-headless cloudpickle narwhals &&
    "$work/c/bin/pip" install -q --no-deps torchvision==0.28.0 quantus==0.6.0 captum==0.9.0; } >"$work/c.log" 2>&1 || {
      tail -n 5 "$work/c.log" >&2; return 1; }
}

part_compare() {
  setup_c && "$program" --quiet --threads "$threads" "$here/compare_make.lua" "$work/compare" &&
    "$c" "$here/compare.py" "$work/compare" 2>"$work/compare.log" &&
      MEDXAI_COMPARE_DIR=$work/compare ours parity_compare
}

# ---- the run ----

parts=
networks=
while [ $# -gt 0 ]; do
  case $1 in
    networks|checkpoints|data|exported|cam|perturb|training|tensorboard|statistics|compare) parts="$parts $1" ;;
    --) shift; networks=$*; break ;;
    *) say "unknown part '$1' (networks checkpoints data exported cam perturb training tensorboard statistics" \
         "compare; networks after --)"; exit 2 ;;
  esac
  shift
done
if [ -n "$networks" ]; then
  MEDXAI_PARITY_NETWORKS=$networks
  export MEDXAI_PARITY_NETWORKS
fi
[ -n "$parts" ] || parts="networks checkpoints data exported cam perturb training tensorboard statistics compare"

case $parts in
  # they have environments of their own
  " statistics" | " compare" | " statistics compare" | " compare statistics") own=1 ;;
  *) own= ;;
esac
if [ -z "$own" ]; then
  setup_a || { say "environment a cannot be made"; exit 1; }
  setup_b || b=
  choose_peer
fi
passed=0
failed=
: >"$work/cells"
for part in $parts; do
  printf '\n== %s ==\n' "$part"
  # what a part prints is kept for its counts
  { code=0; "part_$part" || code=$?; echo "$code" >"$work/code"; } | tee "$work/part.log"
  grep -E '^[0-9]+ cells passed, [0-9]+ failed, [0-9]+ without evidence$' "$work/part.log" >>"$work/cells"
  if [ "$(cat "$work/code")" -eq 0 ]; then passed=$((passed + 1)); else failed="$failed $part"; fi
done
printf '\nparity: %d parts passed,%s failed\n' "$passed" "${failed:- none}"
awk '{ p += $1; f += $4; n += $6 } END { printf "%d cells passed, %d failed, %d without evidence\n", p, f, n }' \
  "$work/cells"
[ -z "$failed" ]
