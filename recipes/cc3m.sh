#!/bin/sh
# CC3M, a CLIP with ResNet-50, batch 1,024, 37 epochs, on eight GPUs.
# Where the settings come from, and the expected figures: docs/recipes.md.
#
#     sh recipes/cc3m.sh 'cc3m/{00000..00331}.tar' runs/cc3m --dry-run --device cuda
#
# Options behind the folder of the run are passed on; without --dry-run, training starts.
set -eu
data=${1:?name the shards} out=${2:?name the folder of the run}
shift 2
exec torchrun --standalone --nproc-per-node 8 -m sogclr align "$data" --out "$out" \
    --model RN50 --batch-size 1024 --epochs 37 --learning-rate 1e-3 --weight-decay 0.1 \
    --temperature-mode learned --temperature 0.07 --rho 6.5 \
    --normalizer table --gamma-min 0.2 --gamma-decay-visits 18 \
    --precision bf16-mixed "$@"
