"""Towers of different origin joined: timm or a user's module for images, Hugging Face for texts.

Small towers take the place of what is not named.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..common.errors import UserError, flag, one_line
from ..common.options import TowerSettings
from .encoders import IMAGENET_MEAN, IMAGENET_STD, require_known, width_of
from .patches import patch_named, patch_of, whole_patches
from .text_config import keep_known_options
from .towers import PairSpec, Tower
from .weight_files import load_weights

__all__ = [
    "build_from_spec",
    "build_joined",
    "choose_length",
    "count_positions",
    "describe_joined",
    "require_hugging_face",
]

SMALL_VISION = {"timm_model_name": "resnet10t", "timm_pool": "avg", "timm_proj": "linear"}
# CLIP's vocabulary; a quarter of the width, heads and layers of ViT-B/32's text tower.
SMALL_TEXT = {"context_length": 32, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 3}
SMALL_WIDTH = 128
USUAL_LENGTH = 512  # tokens of a text in the training of towers with relative positions
SMALL_IMAGE = 64
JOINED_WIDTH = 256  # of the shared space, if a tower is named


def build_joined(
    request: TowerSettings, kinds: tuple[str, str], frozen: tuple[str, ...], image_size: int
) -> tuple[PairSpec, dict[str, Tower]]:
    """Build an image tower and a text tower, or small ones for those not named; describe them.

    Args:
        request: the request; `model` is None.
        kinds: kinds of side a and side b.
        frozen: kinds of the towers that are not trained.
        image_size: image size of the data in pixels.

    Raises:
        UserError: a name is unknown, or weights are missing or do not fit.
    """
    spec, module = describe_joined(request, kinds, frozen, image_size)
    towers = _build_named(spec, module)
    if module is None and "image" in kinds:
        body: Any = towers["image"].body
        if request.image_weights is not None:
            load_weights(body.trunk, Path(request.image_weights), "image-weights")
        width_of(body, spec.image_size, "image-tower")
    return spec, towers


def describe_joined(
    request: TowerSettings, kinds: tuple[str, str], frozen: tuple[str, ...], image_size: int
) -> tuple[PairSpec, nn.Module | None]:
    """Describe the towers that `build_joined` builds.

    Returns:
        The description, and the user's own image tower, if there is one.

    Raises:
        UserError: a name is unknown.
    """
    named = request.text_tower is not None or request.image_tower is not None
    spec = PairSpec(
        kinds=kinds,
        width=request.width or (JOINED_WIDTH if named else SMALL_WIDTH),
        vision=None,
        text=_text_config(request.text_tower, request.context_length),
        image_size=request.image_size or min(image_size, SMALL_IMAGE),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        frozen=frozen,
    )
    return _add_image_tower(spec, request) if "image" in kinds else (spec, None)


def _add_image_tower(spec: PairSpec, request: TowerSettings) -> tuple[PairSpec, nn.Module | None]:
    import timm

    tower = request.image_tower
    # The head of a frozen tower is all that is trained, so it gets a hidden layer.
    projection = "mlp" if "image" in spec.frozen else "linear"
    if isinstance(tower, nn.Module):
        config = getattr(tower, "pretrained_cfg", None) or {}
        own = replace(spec, vision={"timm_proj": projection}, custom=True)
        return _use_pretrained_config(own, request, config, patch_of(tower)), tower
    if tower is None:
        return replace(spec, vision={**SMALL_VISION, "image_size": spec.image_size}), None
    require_known(tower, "image_tower")
    published = timm.get_pretrained_cfg(tower)
    config = published.to_dict() if published else {}
    spec = _use_pretrained_config(spec, request, config, patch_named(tower))
    vision = {
        "timm_model_name": tower,
        "timm_model_pretrained": request.image_weights is None,
        "timm_pool": "avg",
        "timm_proj": projection,
        "image_size": spec.image_size,
    }
    return replace(spec, vision=vision), None


def _use_pretrained_config(
    spec: PairSpec, request: TowerSettings, config: dict[str, Any], patch: int
) -> PairSpec:
    """Use the image size, mean and standard deviation of the tower's pretraining.

    Without pretraining, the image size of the data is rounded to whole patches of the tower.
    """
    size = whole_patches(spec.image_size, patch)
    if "input_size" in config:
        size = config["input_size"][-1]
    return replace(
        spec,
        image_size=request.image_size or size,
        mean=tuple(config.get("mean", spec.mean)),
        std=tuple(config.get("std", spec.std)),
    )


def _text_config(name: str | None, length: int | None) -> dict[str, Any]:
    """Return open_clip's configuration of a Hugging Face tower, or of the small text tower.

    Args:
        name: name or folder of the Hugging Face tower; None for the small tower.
        length: tokens of a text. Default: as many as the tower takes.
    """
    if name is None:
        return {**SMALL_TEXT, "context_length": length or SMALL_TEXT["context_length"]}
    config = require_hugging_face(name, "text_tower")
    return {
        "hf_model_name": name,
        "hf_tokenizer_name": name,
        "hf_proj_type": "mlp",
        "hf_pooler_type": "mean_pooler",
        "context_length": choose_length(name, config, length),
    }


def choose_length(name: str, config: Any, length: int | None) -> int:
    """Choose the number of tokens of a text for a Hugging Face tower.

    Args:
        name: name of the tower, for messages.
        config: its configuration.
        length: the requested number. Default: as many as the tower takes.

    Raises:
        UserError: the tower takes fewer than the requested number.
    """
    most = count_positions(config)
    if most is None:
        return length or USUAL_LENGTH
    if length is not None and length > most:
        raise UserError(f"--context-length: {name} takes {most} tokens, not {length}")
    return length or most


def count_positions(config: Any) -> int | None:
    """Count the tokens of a text that a Hugging Face tower takes; None if it takes any number."""
    most = getattr(config, "max_position_embeddings", None)
    if most is None:  # positions are relative, as in mT5
        return None
    if config.model_type in ("roberta", "xlm-roberta"):  # positions start behind that of padding
        most -= config.pad_token_id + 1
    return most


def require_hugging_face(name: str, option: str) -> Any:
    """Read the configuration of a Hugging Face model, without running code that comes with it.

    Args:
        name: the name or the folder of the model.
        option: the option that gave it, for messages.

    Raises:
        UserError: there is no such model, or open_clip does not build its kind.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:
        raise UserError(
            f"{flag(option)}: {name} is neither a folder with a Hugging Face model nor the name of "
            f"one that can be downloaded ({one_line(error)}); without a network, download it on "
            "another machine and pass its folder"
        ) from error
    keep_known_options(config.to_dict(), f"{flag(option)}: {name}")
    return config


def build_from_spec(spec: PairSpec, module: nn.Module | None) -> dict[str, Tower]:
    """Build the towers of a description.

    Args:
        spec: description of the towers.
        module: the user's own image tower, or None.

    Returns:
        The towers by kind, "image" and "text".

    Raises:
        UserError: the user's own tower does not take the images.
        Exception: of many types: the weights of a tower cannot be loaded, or it cannot be built.
    """
    return {kind: _build_tower(kind, spec, module) for kind in dict.fromkeys(spec.kinds)}


def _build_tower(kind: str, spec: PairSpec, module: nn.Module | None) -> Tower:
    from open_clip.model import _build_text_tower, _build_vision_tower

    if kind == "text":
        return Tower(_build_text_tower(spec.width, dict(spec.text), spec.quick_gelu))
    if module is not None:
        return Tower(_OwnTower(module, spec))
    assert spec.vision is not None
    return Tower(_build_vision_tower(spec.width, dict(spec.vision), spec.quick_gelu))


def _build_named(spec: PairSpec, module: nn.Module | None) -> dict[str, Tower]:
    """Build towers that a user named; say which one cannot be built."""
    towers: dict[str, Tower] = {}
    for kind in dict.fromkeys(spec.kinds):
        try:
            towers[kind] = _build_tower(kind, spec, module)
        except UserError:
            raise
        except Exception as error:  # open_clip, timm and transformers raise many types
            config = spec.text if kind == "text" else spec.vision or {}
            name = config.get("hf_model_name") or config.get("timm_model_name") or "it"
            raise UserError(
                f"--{kind}-tower: {name} could not be built ({one_line(error)}); without a "
                "network, download the weights on another machine and pass them (--image-weights "
                "FILE, --text-tower FOLDER)"
            ) from error
    return towers


class _OwnTower(nn.Module):
    """The user's own image tower, with the head that open_clip gives to timm's towers."""

    def __init__(self, trunk: nn.Module, spec: PairSpec) -> None:
        from timm.layers import Mlp

        super().__init__()
        features = width_of(trunk, spec.image_size, "image-tower")
        self.trunk = trunk
        assert spec.vision is not None
        self.head: nn.Module = nn.Linear(features, spec.width, bias=False)
        if spec.vision["timm_proj"] == "mlp":
            self.head = Mlp(features, 2 * spec.width, spec.width, bias=(True, False))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.trunk(images))
