"""Image sizes that patches cover: pixels beyond the last whole patch would have no influence."""

from contextlib import suppress
from typing import Any

import torch
from torch import nn

from ..common.errors import UserError, flag

__all__ = [
    "describe_unseen",
    "patch_named",
    "patch_of",
    "require_multiple",
    "require_whole_patches",
    "whole_patches",
]


def patch_of(encoder: nn.Module) -> int:
    """Return the side in pixels of the patches into which an encoder cuts images, or 1.

    Patches are what timm calls them, or a first convolution whose stride is its width, without
    padding.
    """
    declared = getattr(getattr(encoder, "patch_embed", None), "patch_size", None)
    if declared is not None:
        return declared if isinstance(declared, int) else max(declared)
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            strides, kernel = module.stride, module.kernel_size
            is_patch = strides == kernel and module.padding in ((0, 0), "valid")
            return max(strides) if is_patch and module.in_channels == 3 else 1
    return 1


def patch_named(name: str) -> int:
    """Return `patch_of` a timm model; 1 for other names."""
    return patch_of(structure_of(name))


def structure_of(name: str) -> nn.Module:
    """Build a timm model without numbers, which takes no memory.

    Returns:
        The model; an empty module for other names, and for models that cannot be built so.
    """
    import timm

    if timm.is_model(name):
        with suppress(NotImplementedError, RuntimeError), torch.device("meta"):
            return timm.create_model(name, num_classes=0)
    return nn.Module()


def whole_patches(size: int, patch: int) -> int:
    """Round an image size down to whole patches, at least one."""
    return max(patch, size // patch * patch)


def require_whole_patches(encoder: nn.Module, size: int, option: str = "image_size") -> None:
    """Refuse an image size of which an encoder would not see the right and the lower edge.

    The size of the encoder's published weights is accepted: these weights were trained with it.

    Args:
        encoder: the encoder.
        size: side of the images in pixels.
        option: option that gave the size, for the message.

    Raises:
        UserError: the size is no multiple of the patch.
    """
    if patch_of(encoder) > 1 and size != _published_size(encoder):
        require_multiple(size, patch_of(encoder), option)


def require_multiple(size: int, patch: int, option: str = "image_size") -> None:
    """Refuse an image size that is no multiple of a patch.

    Raises:
        UserError: the message names the nearest sizes.
    """
    if size % patch:
        low, high = size // patch * patch, (size // patch + 1) * patch
        fitting = f"{low} or {high}" if low else f"{high}"
        raise UserError(
            f"{flag(option)}: {describe_unseen(size, patch)}; give {fitting}, whole patches"
        )


def describe_unseen(size: int, patch: int) -> str:
    """Say how many pixels no patch covers."""
    return (
        f"patches of {patch} px leave {size % patch} of {size} px at the right and the lower edge "
        "unseen"
    )


def _published_size(encoder: nn.Module) -> int | None:
    """Return the image size of the published weights of a timm model, if there are any."""
    configs: list[Any] = [getattr(module, "pretrained_cfg", None) for module in encoder.modules()]
    sizes = [config.get("input_size") for config in configs if config]
    return sizes[0][-1] if sizes and sizes[0] else None
