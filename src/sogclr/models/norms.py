"""Normalization with and without batch statistics.

Batch normalization makes the samples of a batch look less alike than they are: each sample is
shifted and scaled by the statistics of the others. The similarities between samples of a batch are
then too small, and so is every estimate of a normalizer. Smaller batches have larger errors.
"""

from math import gcd
from typing import Any

from torch import nn

from ..common.options import ConcreteNorm

__all__ = ["build_feature_norm", "normalize_by_groups"]

MAX_GROUPS = 32  # of a layer, as in Wu & He, "Group Normalization", ECCV 2018
MIN_CHANNELS = 8  # of a group, unless the layer has fewer


def normalize_by_groups(module: nn.Module) -> nn.Module:
    """Replace each `BatchNorm2d` and `SyncBatchNorm` of a module by a group normalization.

    Scale and shift of every channel stay. So does an activation inside the layer, as timm has it.

    Args:
        module: the module, whose layers are replaced in place.

    Returns:
        The same module; its group normalization, if it is itself such a layer.
    """
    if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
        return _as_group_norm(module)
    for name, child in module.named_children():
        setattr(module, name, normalize_by_groups(child))
    return module


def build_feature_norm(norm: ConcreteNorm, width: int) -> nn.Module:
    """Build the layer that normalizes features `(B, width)`."""
    return nn.BatchNorm1d(width) if norm == "batch" else nn.LayerNorm(width)


def _as_group_norm(layer: Any) -> nn.Module:
    channels = layer.num_features
    # gcd: the number of groups must divide the number of channels.
    groups = gcd(channels, min(MAX_GROUPS, max(1, channels // MIN_CHANNELS)))
    group_norm = nn.GroupNorm(groups, channels, layer.eps, affine=layer.affine)
    if layer.affine:
        group_norm.weight, group_norm.bias = layer.weight, layer.bias
    # Layers of timm such as BatchNormAct2d drop and activate after they normalize.
    after = [getattr(layer, name, None) for name in ("drop", "act")]
    extra = [each for each in after if each is not None and not isinstance(each, nn.Identity)]
    return nn.Sequential(group_norm, *extra) if extra else group_norm
