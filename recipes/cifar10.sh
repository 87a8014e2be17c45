#!/bin/sh
# CIFAR-10, ResNet-50, batch 64, 400 epochs, on one GPU.
# Where the settings come from, and the expected figures: docs/recipes.md.
#
#     sh recipes/cifar10.sh cifar10/train runs/cifar10 --dry-run --device cuda
#
# Options behind the folder of the run are passed on; without --dry-run, training starts.
set -eu
data=${1:?name the folder of the training images} out=${2:?name the folder of the run}
shift 2
exec sogclr pretrain "$data" --out "$out" \
    --encoder resnet50 --image-size 32 --batch-size 64 --epochs 400 \
    --optimizer sgd --weight-decay 1e-4 --temperature 0.5 --normalizer table --gamma-min 0.9 \
    --precision bf16-mixed "$@"
