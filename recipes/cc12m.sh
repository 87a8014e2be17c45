#!/bin/sh
# CC12M, a CLIP with ViT-B/32, batch 2,048, 33 epochs, on eight GPUs.
# Where the settings come from, and the expected figures: docs/recipes.md.
#
#     sh recipes/cc12m.sh 'cc12m/{00000..01242}.tar' runs/cc12m --dry-run --device cuda
#
# Options behind the folder of the run are passed on; without --dry-run, training starts.
set -eu
data=${1:?name the shards} out=${2:?name the folder of the run}
shift 2
exec torchrun --standalone --nproc-per-node 8 -m sogclr align "$data" --out "$out" \
    --model ViT-B-32 --batch-size 2048 --epochs 33 --learning-rate 4e-4 --weight-decay 0.1 \
    --temperature-mode learned --temperature 0.07 --rho 8.5 \
    --normalizer table --gamma-min 0.2 --gamma-decay-visits 16 \
    --precision bf16-mixed "$@"
