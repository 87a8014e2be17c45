"""Image sizes that an encoder sees whole: pixels beyond the last patch would have no influence."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from ..common.errors import UserError, flag

__all__ = [
    "count_unseen",
    "describe_unseen",
    "first_patch",
    "patch_named",
    "patch_of",
    "require_seen",
    "require_whole_patches",
    "whole_patches",
]


def patch_of(encoder: nn.Module) -> int:
    """Return the side in pixels of which an encoder's image sizes should be multiples, or 1.

    It is that of the patches into which the first layer cuts images. Of timm's models that are
    built for one image size it is otherwise the side that they reduce to one place.
    """
    patch = first_patch(encoder)
    if patch > 1:
        return patch
    for module in encoder.modules():
        config = getattr(module, "pretrained_cfg", None)
        if config and config.get("fixed_input_size"):
            stages = getattr(module, "feature_info", None) or ()
            return max((int(stage["reduction"]) for stage in stages), default=1)
    return 1


def first_patch(encoder: nn.Module) -> int:
    """Return the side of the patches into which the first convolution cuts images, or 1.

    Such a convolution has no padding, and its kernel is as wide as one or several strides.
    """
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            stride, kernel = max(module.stride), max(module.kernel_size)
            cuts = kernel % stride == 0 and module.padding in ((0, 0), "valid")
            return stride if cuts and module.in_channels == 3 else 1
    return 1


def patch_named(name: str) -> int:
    """Return `patch_of` a timm model; 1 for other names."""
    return patch_of(structure_of(name))


def structure_of(name: str) -> nn.Module:
    """Build a timm model on the meta device, where weights take no memory.

    Returns:
        The model; an empty module for other names, and for models that cannot be built so.
    """
    if name == "small" or name.startswith("custom:"):
        return nn.Module()  # timm takes a second to import
    import timm

    if timm.is_model(name):
        with suppress(NotImplementedError, RuntimeError), torch.device("meta"):
            return timm.create_model(name, num_classes=0)
    return nn.Module()


def whole_patches(size: int, patch: int) -> int:
    """Round an image size down to whole patches, at least one."""
    return max(patch, size // patch * patch)


def require_whole_patches(encoder: nn.Module, size: int, option: str = "image_size") -> None:
    """Refuse an image size of which the first layer would not see the right and the lower edge.

    The size of the encoder's published weights is accepted: these weights were trained with it.

    Args:
        encoder: the encoder; its weights are not needed.
        size: side of the images in pixels.
        option: option that gave the size, for the message.

    Raises:
        UserError: the size is no multiple of the patch.
    """
    if first_patch(encoder) > 1 and size != _published_size(encoder):
        _require_multiple(size, first_patch(encoder), option)


def _require_multiple(size: int, patch: int, option: str = "image_size") -> None:
    """Refuse an image size that is no multiple of a patch.

    Raises:
        UserError: the message names the nearest sizes.
    """
    if size % patch:
        raise UserError(
            f"{flag(option)}: {describe_unseen(size, patch)}; give {_nearest(size, patch)}, whole "
            "patches"
        )


def require_seen(encoder: nn.Module, size: int, option: str = "image_size") -> None:
    """Refuse an image size of which an encoder does not see the right and the lower edge.

    Patches may be cut in later layers, so this is measured. See `require_whole_patches`.

    Args:
        encoder: the encoder, in eval mode.
        size: side of the images in pixels.
        option: option that gave the size, for the message.

    Raises:
        UserError: the last pixels have no influence on the features.
    """
    if size == _published_size(encoder):
        return
    if unseen := count_unseen(encoder, size):
        step = patch_of(encoder)
        fitting = _nearest(size, step) if step > 1 else f"{size - unseen}"
        raise UserError(
            f"{flag(option)}: the encoder leaves {unseen} of {size} px at the right and the lower "
            f"edge unseen; give {fitting}"
        )


@torch.no_grad()
def count_unseen(encoder: nn.Module, size: int) -> int:
    """Count the last rows and columns of pixels that have no influence on the features.

    Args:
        encoder: the encoder, in eval mode, which maps `(B, 3, S, S)` to features.
        size: S.
    """
    draw = torch.Generator().manual_seed(0)
    device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    image = torch.randn(1, 3, size, size, generator=draw)
    # Strong, so that the pixels are among the largest that a pooling layer may look for.
    other = 10 * torch.randn(1, 3, size, size, generator=draw)

    def sees(pixels: int) -> bool:
        """Tell whether another content of the last rows and columns changes the features."""
        changed = other.clone()
        changed[..., : size - pixels, : size - pixels] = image[
            ..., : size - pixels, : size - pixels
        ]
        return not torch.equal(encoder(changed.to(device)), plain)

    with _no_zeros(encoder, draw):
        plain: Tensor = encoder(image.to(device))
        if sees(1) or not sees(size):
            return 0
        low, high = 1, size  # the last `low` pixels are not seen, the last `high` are
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if sees(middle) else (middle, high)
    return low


@contextmanager
def _no_zeros(encoder: nn.Module, draw: torch.Generator) -> Iterator[None]:
    """Replace parameters that are all zero for a while: a new encoder has branches that are off."""
    zeros = [(p, p.clone()) for p in encoder.parameters() if not p.any()]
    for parameter, _ in zeros:
        parameter.copy_(0.1 * torch.randn(parameter.shape, generator=draw))
    try:
        yield
    finally:
        for parameter, before in zeros:
            parameter.copy_(before)


def describe_unseen(size: int, patch: int) -> str:
    """Say how many pixels no patch covers."""
    return (
        f"patches of {patch} px leave {size % patch} of {size} px at the right and the lower edge "
        "unseen"
    )


def _nearest(size: int, step: int) -> str:
    """Name the nearest multiples of a step."""
    low, high = size // step * step, (size // step + 1) * step
    return f"{low} or {high}" if low else f"{high}"


def _published_size(encoder: nn.Module) -> int | None:
    """Return the image size of the published weights of a timm model, if there are any."""
    configs: list[Any] = [getattr(module, "pretrained_cfg", None) for module in encoder.modules()]
    sizes = [config.get("input_size") for config in configs if config]
    return sizes[0][-1] if sizes and sizes[0] else None
