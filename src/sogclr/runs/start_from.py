"""Start a run from the encoder of another run, which `--weights` names by its folder."""

from dataclasses import replace
from pathlib import Path

from torch import nn

from ..common.errors import UserError, flag
from ..models.encoders import EncoderSpec
from ..planning.settings_images import ImageSettings
from .folder import Run, is_pair_run
from .load import load_encoder
from .stored import read_json

__all__ = ["is_run", "load_start", "settings_of_start"]


def is_run(weights: str | None) -> bool:
    """Tell whether the option `weights` names a folder rather than a file."""
    return weights is not None and Path(weights).is_dir()


def settings_of_start(request: ImageSettings) -> ImageSettings:
    """Take encoder, normalization and image size from the run that `weights` names, if any.

    Args:
        request: The settings of a new run, as they were given.

    Raises:
        UserError: The folder is no run on images, or a setting contradicts its encoder.
    """
    if request.weights is None or not is_run(request.weights):
        return request
    spec = _read_spec(request.weights)
    custom = spec.name == "custom"
    encoder = request.encoder if custom else spec.name
    if custom and not request.encoder.startswith("custom:"):
        raise UserError(
            f"--weights: {request.weights} trained a module of your own; pass one of the same "
            "architecture from Python: sogclr.pretrain(..., encoder=module)"
        )
    for name, own in (("encoder", encoder), ("norm", spec.norm)):
        given = getattr(request, name)
        if given not in ("auto", own):
            raise UserError(
                f"{flag(name)}: {request.weights} has {own}, not {given}; leave out {flag(name)}"
            )
    size = request.image_size or spec.image_size
    if size != spec.image_size and spec.options:
        raise UserError(
            f"--image-size: the encoder of {request.weights} takes {spec.image_size} px alone; "
            "leave out --image-size"
        )
    return replace(request, encoder=encoder, norm=spec.norm, image_size=size)


def load_start(
    weights: str, module: nn.Module | None, image_size: int
) -> tuple[nn.Module, EncoderSpec]:
    """Load the encoder to start from, and describe it for images of another size.

    Args:
        weights: the folder of a run.
        module: the user's own encoder, whose weights are overwritten; None if it has a name.
        image_size: side of the training images in pixels.
    """
    encoder, spec = load_encoder(weights, module)
    return encoder, replace(spec, image_size=image_size)


def _read_spec(folder: str) -> EncoderSpec:
    if is_pair_run(folder):
        raise UserError(f"--weights: {folder} is a run on pairs; give a run of sogclr pretrain")
    file = Run(folder).encoder_spec
    return EncoderSpec.from_dict(read_json(file), f"run: {file}")
