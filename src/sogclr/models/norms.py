"""Normalization with and without batch statistics.

Batch normalization makes the samples of a batch look less alike than they are: each sample is
shifted and scaled by the statistics of the others. The similarities to negatives of its own batch
are then too small, by more the smaller the batch is, and so is every estimate of a normalizer.
"""

from math import gcd
from typing import Any

from torch import nn

from ..common.options import ConcreteNorm

__all__ = ["has_batch_statistics", "normalize_by_groups", "normalize_features"]

GROUPS = 32  # as in Wu & He, "Group Normalization", ECCV 2018
LARGEST_GROUPS = 8  # fewest channels of a group, if the layer has as many


def normalize_by_groups(module: nn.Module) -> nn.Module:
    """Replace each batch normalization of images in a module by a group normalization.

    Scale and shift of every channel stay, and so does an activation that belongs to the layer, as
    timm's layers have it.

    Args:
        module: changed in place.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, _by_groups(child))
        else:
            normalize_by_groups(child)
    return module


def has_batch_statistics(module: nn.Module) -> bool:
    """Return whether a module normalizes by statistics of the batch."""
    kinds = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
    return any(isinstance(layer, kinds) for layer in module.modules())


def normalize_features(norm: ConcreteNorm, width: int) -> nn.Module:
    """Build the normalization of features `(B, width)`."""
    return nn.BatchNorm1d(width) if norm == "batch" else nn.LayerNorm(width)


def _by_groups(layer: Any) -> nn.Module:
    channels = layer.num_features
    groups = gcd(channels, min(GROUPS, max(1, channels // LARGEST_GROUPS)))
    group_norm = nn.GroupNorm(groups, channels, layer.eps, affine=layer.affine)
    if layer.affine:
        group_norm.weight, group_norm.bias = layer.weight, layer.bias
    # Layers of timm such as BatchNormAct2d drop and activate after they normalize.
    after = [getattr(layer, name, None) for name in ("drop", "act")]
    extra = [each for each in after if each is not None and not isinstance(each, nn.Identity)]
    return nn.Sequential(group_norm, *extra) if extra else group_norm
