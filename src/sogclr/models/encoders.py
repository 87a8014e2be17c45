"""Encoders by name, with a stem for small images, and the projector in front of the loss."""

import difflib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from ..common.errors import UserError, flag, one_line
from ..common.options import ConcreteNorm
from ..common.stored_fields import build_from_json, require_type
from .norms import build_feature_norm, normalize_by_groups
from .patches import require_seen, require_whole_patches, structure_of
from .small import SmallEncoder
from .weight_files import load_weights

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "PROJECTION",
    "ContrastiveModel",
    "EncoderSpec",
    "build_encoder",
    "build_projector",
    "describe",
    "rebuild_encoder",
    "require_inputs",
    "require_known",
    "width_of",
]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LARGEST_IMAGE = 16_384  # pixels; a larger size in a stored description is damage
PROJECTION = 128  # width of the loss's inputs, as in SimCLR and MoCo


@dataclass(frozen=True)
class EncoderSpec:
    """A description from which an encoder and its inputs can be made; stored with the weights.

    Attributes:
        name: a timm name, `"small"`, or `"custom"` for a module of the user's own.
        image_size: side of its input in pixels.
        mean, std: mean and standard deviation of the three channels, for images in [0, 1].
        small_stem: whether the first convolution and pooling were replaced for small images.
        options: further arguments of `timm.create_model`.
        norm: "group" if batch normalizations were replaced by group normalizations, else "batch".
    """

    name: str
    image_size: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    small_stem: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    norm: ConcreteNorm = "batch"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Any, name: str = "description") -> "EncoderSpec":
        """Make a description from the result of `as_dict`, read back from JSON.

        Args:
            stored: the description, which may come from a stranger. Its options must be those
                that `build_encoder` sets: others could name files that timm then opens.
            name: the name of the description, for messages.

        Raises:
            UserError: the description is not one of this version, or no encoder has it.
        """
        spec = build_from_json(cls, stored, name)
        require_type(spec.options, _Options, f"{name}: options")
        if spec.name not in ("small", "custom"):
            require_known(spec.name, f"{name}: name")
        require_inputs((spec.image_size, *spec.options.values()), spec.mean, spec.std, name)
        return spec


class _Options(TypedDict, total=False):
    """The arguments of `timm.create_model` that a description may have."""

    img_size: int


def require_inputs(
    sizes: Iterable[int], mean: tuple[float, ...], std: tuple[float, ...], name: str
) -> None:
    """Refuse stored image sizes, means and standard deviations that no images can have.

    Raises:
        UserError: a size, a mean or a standard deviation is impossible.
    """
    if not all(1 <= size <= LARGEST_IMAGE for size in sizes):
        raise UserError(f"{name}: image sizes must be between 1 and {LARGEST_IMAGE}")
    if not (len(mean) == len(std) == 3 and min(std) > 0):
        raise UserError(f"{name}: mean and std must have 3 numbers each, those of std above 0")


def build_encoder(
    name: str,
    image_size: int,
    *,
    pretrained: bool = False,
    weights: str | None = None,
    norm: ConcreteNorm = "batch",
) -> tuple[nn.Module, EncoderSpec]:
    """Build an encoder that maps `(B, 3, S, S)` to `(B, width)`, and describe it.

    Args:
        name: any of `timm.list_models()`, or `"small"`.
        image_size: side of the images in pixels. Below 64 px a residual network trained from
            scratch gets a stem for small images: a 3 x 3 convolution with stride 1, no pooling. The
            published stem would shrink them to a few pixels before the first block.
        pretrained: whether to start from timm's pretrained weights, which are downloaded once.
        weights: file of the weights to start from instead (safetensors or torch), or None.
        norm: "group" to replace batch normalizations by group normalizations.

    Raises:
        UserError: the name is unknown (the message lists the nearest ones), weights are missing or
            do not fit, or the image size is no multiple of the encoder's patches.
    """
    if name != "small":
        require_known(name)
    require_whole_patches(structure_of(name), image_size)
    from_scratch = not pretrained and weights is None
    spec = EncoderSpec(name, image_size, options=_options(name, image_size), norm=norm)
    encoder = _create(spec, pretrained=pretrained)
    if not from_scratch:
        config: Any = getattr(
            encoder, "pretrained_cfg", {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
        )
        spec = replace(spec, mean=tuple(config["mean"]), std=tuple(config["std"]))
    if from_scratch and image_size < 64 and hasattr(encoder, "maxpool"):
        spec = replace(spec, small_stem=True)
        _shrink_stem(encoder)
    if weights is not None:
        load_weights(encoder, Path(weights), "weights")
    return encoder, spec


def require_known(name: str, option: str = "encoder") -> None:
    """Refuse a name that timm does not know.

    Args:
        name: Name of an encoder.
        option: Name of the option or of the stored value that gave it.

    Raises:
        UserError: The name is unknown; the message has the nearest names.
    """
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, [*timm.list_models(), "small"], n=4, cutoff=0.5)
        # `option` may also be a stored value with its place, which has a space.
        where = option if " " in option else flag(option)
        raise UserError(
            f"{where}: {name!r} is unknown; nearest: {', '.join(near) or 'none'} "
            "(timm.list_models() lists all)"
        )


def rebuild_encoder(spec: EncoderSpec) -> nn.Module:
    """Build the encoder of a stored description, with untrained weights.

    Raises:
        UserError: timm cannot build it.
    """
    try:
        encoder = _create(spec, pretrained=False)
        if spec.small_stem:
            _shrink_stem(encoder)
    except Exception as error:  # timm raises many kinds
        raise UserError(f"run: {spec.name} cannot be built ({one_line(error)})") from error
    return encoder


def width_of(encoder: nn.Module, image_size: int, option: str = "encoder") -> int:
    """Return the width d of the features, measured by a forward pass.

    Raises:
        UserError: the module does not map `(B, 3, S, S)` to `(B, d)`, and the message names
            `option`; or no patch covers the edge of images of this size.
    """
    require_whole_patches(encoder, image_size)
    device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    was_training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad():
            features = encoder(torch.zeros(2, 3, image_size, image_size, device=device))
    except Exception as error:  # of any type: the module may be the user's own
        reason = one_line(error) or type(error).__name__
        raise UserError(f"{flag(option)}: cannot take {image_size} px images ({reason})") from error
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != 2:
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise UserError(
            f"{flag(option)}: must map (2, 3, {image_size}, {image_size}) to features "
            f"(2, d), got {shape}"
        )
    require_seen(encoder, image_size)
    encoder.train(was_training)
    return features.shape[1]


def build_projector(width: int, out: int = PROJECTION, norm: ConcreteNorm = "batch") -> nn.Module:
    """Build SimCLR's projector, `(B, width)` to `(B, out)`: one hidden layer, normalized.

    Args:
        width: width of the features and of the hidden layer.
        out: width of the projections.
        norm: "batch" as in SimCLR; "group" for a layer normalization, without batch statistics.
    """
    return nn.Sequential(
        nn.Linear(width, width, bias=False),
        build_feature_norm(norm, width),
        nn.ReLU(inplace=True),
        nn.Linear(width, out),
    )


class ContrastiveModel(nn.Module):
    """An encoder, which is saved, and a projector, which is used only for the loss."""

    def __init__(self, encoder: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = projector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map standardized images `(B, 3, S, S)` to features `(B, width)` and projections."""
        features = self.encoder(images)
        return features, self.projector(features)


def describe(encoder: nn.Module, spec: EncoderSpec, width: int) -> str:
    """Describe an encoder in one line."""
    count = sum(p.numel() for p in encoder.parameters())
    stem = ", small-image stem" if spec.small_stem else ""
    stem += ", group normalization" if spec.norm == "group" else ""
    return f"{spec.name}, {count / 1e6:.2f} M parameters, {width} features{stem}"


def _create(spec: EncoderSpec, pretrained: bool) -> nn.Module:
    encoder = _create_as_published(spec, pretrained)
    return normalize_by_groups(encoder) if spec.norm == "group" else encoder


def _create_as_published(spec: EncoderSpec, pretrained: bool) -> nn.Module:
    import timm

    if spec.name == "small":
        if pretrained:
            raise UserError("--encoder: small has no pretrained weights; leave out --pretrained")
        return SmallEncoder()
    try:
        return timm.create_model(spec.name, pretrained=pretrained, num_classes=0, **spec.options)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        raise UserError(
            f"--encoder: the pretrained weights of {spec.name} could not be fetched "
            f"({' '.join(str(error).split())[:200]}); "
            "download them elsewhere and pass the file with --weights"
        ) from error


def _options(name: str, image_size: int) -> dict[str, Any]:
    """Return the arguments of `timm.create_model` that set the input size, if the model has any."""
    if name == "small":
        return {}
    import timm

    # Build on the meta device to see whether the model takes img_size (mostly transformers do).
    try:
        with torch.device("meta"):
            timm.create_model(name, num_classes=0, img_size=image_size)
    except TypeError:
        return {}
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = one_line(error) or type(error).__name__
        message = f"--encoder: {name} cannot take {image_size} px images ({reason})"
        raise UserError(message) from error
    return {"img_size": image_size}


def _shrink_stem(encoder: Any) -> None:
    conv = encoder.conv1
    if isinstance(conv, nn.Sequential):  # deep: 3 x 3 convolutions whose stride is too large
        first: Any = conv[0]
        first.stride = (1, 1)
    else:
        encoder.conv1 = nn.Conv2d(3, conv.out_channels, 3, stride=1, padding=1, bias=False)
    encoder.maxpool = nn.Identity()
