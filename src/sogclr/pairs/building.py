"""Which towers: an open_clip model, a timm and a Hugging Face tower joined, or small ones."""

import difflib
import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import UserError
from ..models import IMAGENET_MEAN, IMAGENET_STD, load_weights, width_of
from .towers import PairSpec, Tower

__all__ = ["TowerRequest", "build_towers", "rebuild_towers", "tokenizer_of"]

SMALL_VISION = {"timm_model_name": "resnet10t", "timm_pool": "avg", "timm_proj": "linear"}
# A quarter of CLIP's ViT-B/32 text tower in every respect, with its vocabulary.
SMALL_TEXT = {"context_length": 32, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 3}
SMALL_WIDTH = 128
SMALL_IMAGE = 64
JOINED_WIDTH = 256  # of heads on towers that were trained apart


@dataclass(frozen=True)
class TowerRequest:
    """What was asked for; see `sogclr.align` for the meaning of each."""

    model: str | None
    pretrained: str | None
    image_tower: str | nn.Module | None
    image_weights: str | None
    text_tower: str | None
    width: int | None
    image_size: int | None

    def starts_trained(self) -> bool:
        """Whether the towers come with trained weights."""
        if self.model is not None:
            return self.pretrained is not None or ":" in self.model
        return self.image_tower is not None or self.text_tower is not None


def build_towers(
    request: TowerRequest, kinds: tuple[str, str], frozen: tuple[str, ...], image_size: int
) -> tuple[PairSpec, dict[str, Tower]]:
    """Towers with their initial weights, and their description.

    Args:
        request: what was asked for.
        kinds: of the sides.
        frozen: those of them whose towers are not trained.
        image_size: of the data, for towers that are made to measure.

    Raises:
        UserError: an unknown name (with the nearest), weights that cannot be had or do not fit.
    """
    require_open_clip()
    with _quiet():
        if request.model is not None:
            return _whole(request, kinds, frozen)
        return _joined(request, kinds, frozen, image_size)


def rebuild_towers(spec: PairSpec, text_folder: Path, module: nn.Module | None) -> dict[str, Tower]:
    """The towers that a stored description describes, with untrained weights.

    Args:
        spec: of the towers.
        text_folder: where a run keeps configuration and tokenizer of a Hugging Face tower.
        module: the user's own image tower, where it was one.
    """
    require_open_clip()
    with _quiet():
        text = dict(spec.text)
        if "hf_model_name" in text:
            text |= {"hf_model_name": str(text_folder), "hf_model_pretrained": False}
        return _towers(replace(spec, text=text), module)


def tokenizer_of(spec: PairSpec, text_folder: Path | None = None) -> Any:
    """Strings to `(n, L)` token ids, as open_clip's tokenizers do it."""
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    length = spec.text.get("context_length", 77)
    if "hf_model_name" not in spec.text:
        return SimpleTokenizer(context_length=length)
    name = str(text_folder) if text_folder else spec.text["hf_tokenizer_name"]
    with _quiet():
        return HFTokenizer(name, context_length=length)


def require_open_clip() -> None:
    """Raise UserError unless the libraries of the towers are there."""
    try:
        import open_clip  # noqa: F401 (only whether it is there)
    except ImportError:
        raise UserError("pairs need open_clip: pip install 'sogclr[pairs]'") from None


def _whole(
    request: TowerRequest, kinds: tuple[str, str], frozen: tuple[str, ...]
) -> tuple[PairSpec, dict[str, Tower]]:
    """An open_clip model by name, folder or configuration file."""
    import open_clip

    name, path = str(request.model), Path(str(request.model))
    if path.suffix == ".json" and path.is_file():
        config = json.loads(path.read_text())
        name = path.stem
        open_clip.add_model_config(path)
    elif path.is_dir():
        name = f"local-dir:{path}"
    elif ":" not in name and name not in open_clip.list_models():
        near = difflib.get_close_matches(name, open_clip.list_models(), n=4, cutoff=0.4)
        raise UserError(
            f"model: {name!r} is unknown to open_clip; nearest: {', '.join(near) or 'none'}"
        )
    _check_tag(name, request.pretrained)
    try:
        model = open_clip.create_model(
            name, pretrained=request.pretrained, force_custom_text=True, output_dict=False
        )
    except Exception as error:
        raise UserError(
            f"model: {name} with {request.pretrained or 'its own weights'} could not be built "
            f"({_one_line(error)}); without a network, download the weights elsewhere and pass "
            "the file with --pretrained"
        ) from error
    config = open_clip.get_model_config(name) or json.loads(
        (path / "open_clip_config.json").read_text()
    ).get("model_cfg", {})
    prepared = open_clip.get_model_preprocess_cfg(model)
    size = model.visual.image_size
    spec = PairSpec(
        kinds=kinds,
        width=config["embed_dim"],
        vision=config["vision_cfg"] if "image" in kinds else None,
        text=config["text_cfg"],
        quick_gelu=config.get("quick_gelu", False),
        image_size=size if isinstance(size, int) else size[0],
        mean=tuple(prepared["mean"]),
        std=tuple(prepared["std"]),
        frozen=frozen,
    )
    towers = {"image": model.visual, "text": model.text}
    return spec, {kind: Tower(towers[kind]) for kind in dict.fromkeys(kinds)}


def _check_tag(name: str, tag: str | None) -> None:
    import open_clip

    if tag is None or Path(tag).is_file() or ":" in name:
        return
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags:
        near = difflib.get_close_matches(tag, tags, n=5, cutoff=0.0)
        raise UserError(
            f"pretrained: {tag!r} is neither a file nor a tag of {name}; "
            f"nearest: {', '.join(near) or 'none, it has no published weights'}"
        )


def _joined(
    request: TowerRequest, kinds: tuple[str, str], frozen: tuple[str, ...], image_size: int
) -> tuple[PairSpec, dict[str, Tower]]:
    """A timm tower and a Hugging Face tower, or small ones in place of what is not named."""
    named = request.text_tower is not None or request.image_tower is not None
    spec = PairSpec(
        kinds=kinds,
        width=request.width or (JOINED_WIDTH if named else SMALL_WIDTH),
        vision=None,
        text=_text_config(request.text_tower),
        image_size=request.image_size or min(image_size, SMALL_IMAGE),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        frozen=frozen,
    )
    module = None
    if "image" in kinds:
        spec, module = _with_image(spec, request)
    towers = _towers(spec, module)
    if module is None and request.image_weights is not None and "image" in kinds:
        body: Any = towers["image"].body
        load_weights(body.trunk, Path(request.image_weights), "image-weights")
    return spec, towers


def _with_image(spec: PairSpec, request: TowerRequest) -> tuple[PairSpec, nn.Module | None]:
    import timm

    tower = request.image_tower
    # Frozen towers are joined by what is trained: a layer more than a projection.
    projection = "mlp" if "image" in spec.frozen else "linear"
    if isinstance(tower, nn.Module):
        config = getattr(tower, "pretrained_cfg", None) or {}
        own = replace(spec, vision={"timm_proj": projection}, custom=True)
        return _as_configured(own, request, config), tower
    if tower is None:
        return replace(spec, vision={**SMALL_VISION, "image_size": spec.image_size}), None
    if not timm.is_model(tower):
        near = difflib.get_close_matches(tower, timm.list_models(), n=4, cutoff=0.5)
        raise UserError(
            f"image-tower: {tower!r} is unknown; nearest: {', '.join(near) or 'none'} "
            "(timm.list_models() lists all)"
        )
    published = timm.get_pretrained_cfg(tower)
    spec = _as_configured(spec, request, published.to_dict() if published else {})
    vision = {
        "timm_model_name": tower,
        "timm_model_pretrained": request.image_weights is None,
        "timm_pool": "avg",
        "timm_proj": projection,
        "image_size": spec.image_size,
    }
    return replace(spec, vision=vision), None


def _as_configured(spec: PairSpec, request: TowerRequest, config: dict[str, Any]) -> PairSpec:
    """Size, mean and standard deviation that timm says an image tower was trained with."""
    size = config.get("input_size", (3, spec.image_size, spec.image_size))[-1]
    return replace(
        spec,
        image_size=request.image_size or size,
        mean=tuple(config.get("mean", spec.mean)),
        std=tuple(config.get("std", spec.std)),
    )


def _text_config(name: str | None) -> dict[str, Any]:
    if name is None:
        return dict(SMALL_TEXT)
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name)
    except Exception as error:
        raise UserError(
            f"text-tower: {name} is neither a folder with a Hugging Face model nor one that can "
            f"be fetched ({_one_line(error)}); without a network, download it elsewhere and pass "
            "its folder"
        ) from error
    return {
        "hf_model_name": name,
        "hf_tokenizer_name": name,
        "hf_proj_type": "mlp",
        "hf_pooler_type": "mean_pooler",
        # Captions and sentences; attention pays for every token.
        "context_length": min(64, getattr(config, "max_position_embeddings", 64)),
    }


def _towers(spec: PairSpec, module: nn.Module | None) -> dict[str, Tower]:
    from open_clip.model import _build_text_tower, _build_vision_tower

    towers: dict[str, Tower] = {}
    for kind in dict.fromkeys(spec.kinds):
        try:
            if kind == "text":
                body = _build_text_tower(spec.width, dict(spec.text), spec.quick_gelu)
            elif module is not None:
                body = _OwnTower(module, spec)
            else:
                assert spec.vision is not None
                body = _build_vision_tower(spec.width, dict(spec.vision), spec.quick_gelu)
        except (OSError, RuntimeError) as error:
            name = spec.text.get("hf_model_name") if kind == "text" else spec.vision
            raise UserError(
                f"{kind}-tower: {name} could not be built ({_one_line(error)}); without a "
                "network, download the weights elsewhere and pass them (--image-weights FILE, "
                "--text-tower FOLDER)"
            ) from error
        towers[kind] = Tower(body)
    return towers


class _OwnTower(nn.Module):
    """The user's own image tower, with the head that open_clip gives one of timm's."""

    def __init__(self, trunk: nn.Module, spec: PairSpec) -> None:
        from timm.layers import Mlp

        super().__init__()
        features = width_of(trunk, spec.image_size)
        self.trunk = trunk
        assert spec.vision is not None
        self.head: nn.Module = nn.Linear(features, spec.width, bias=False)
        if spec.vision["timm_proj"] == "mlp":
            self.head = Mlp(features, 2 * spec.width, spec.width, bias=(True, False))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.trunk(images))


@contextmanager
def _quiet() -> Iterator[None]:
    """open_clip and transformers log and warn of what is intended here; nothing phones home."""
    from transformers.utils import logging as hugging_face

    hugging_face.disable_progress_bar()
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # loader workers fork
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
