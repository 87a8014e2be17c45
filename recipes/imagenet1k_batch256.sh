#!/bin/sh
# ImageNet-1K, ResNet-50, batch 256, 800 epochs, on one GPU.
# Where the settings come from, and the expected figures: docs/recipes.md.
#
#     sh recipes/imagenet1k_batch256.sh imagenet/train runs/imagenet1k_batch256 --dry-run --device cuda
#
# Options behind the folder of the run are passed on; without --dry-run, training starts.
set -eu
data=${1:?name the folder of the training images} out=${2:?name the folder of the run}
shift 2
exec sogclr pretrain "$data" --out "$out" \
    --encoder resnet50 --image-size 224 --batch-size 256 --epochs 800 \
    --optimizer lars --temperature 0.1 --normalizer table --gamma-min 0.9 \
    --precision bf16-mixed "$@"
