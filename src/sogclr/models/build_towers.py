"""Which towers: an open_clip model, a timm and a Hugging Face tower joined, or small ones."""

import difflib
import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..common.errors import UserError, one_line
from ..common.options import TowerSettings
from .encoders import IMAGENET_MEAN, IMAGENET_STD, load_weights, require_known, width_of
from .towers import PairSpec, Tower

__all__ = ["build_towers", "rebuild_towers", "tokenizer_of"]

SMALL_VISION = {"timm_model_name": "resnet10t", "timm_pool": "avg", "timm_proj": "linear"}
# A quarter of CLIP's ViT-B/32 text tower in every respect, with its vocabulary.
SMALL_TEXT = {"context_length": 32, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 3}
SMALL_WIDTH = 128
SMALL_IMAGE = 64
JOINED_WIDTH = 256  # of heads on towers that were trained apart


def build_towers(
    request: TowerSettings, kinds: tuple[str, str], frozen: tuple[str, ...], image_size: int
) -> tuple[PairSpec, dict[str, Tower]]:
    """Towers with their initial weights, and their description.

    Args:
        request: what was asked for.
        kinds: of the sides.
        frozen: those of them whose towers are not trained.
        image_size: of the data, for towers that are made to measure.

    Raises:
        UserError: an unknown name (with the nearest), weights that cannot be had or do not fit,
            settings that contradict each other.
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
        spec = at_home(spec, text_folder)
        text = {**spec.text, "hf_model_pretrained": False}
        vision = spec.vision and {**spec.vision, "timm_model_pretrained": False}
        return _towers(replace(spec, text=text, vision=vision), module)


def at_home(spec: PairSpec, text_folder: Path) -> PairSpec:
    """The description, with what is Hugging Face's taken from a run's folder."""
    names = {"hf_model_name", "hf_tokenizer_name"} & spec.text.keys()
    return replace(spec, text={**spec.text, **dict.fromkeys(names, str(text_folder))})


def tokenizer_of(spec: PairSpec, text_folder: Path | None = None) -> Any:
    """Strings to `(n, L)` token ids, as open_clip's tokenizers do it.

    Args:
        spec: of the towers.
        text_folder: where a run keeps the tokenizer, if it is Hugging Face's. Default: from
            whence the tower came.

    Raises:
        UserError: it cannot be had.
    """
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    text = spec.text if text_folder is None else at_home(spec, text_folder).text
    options = {"context_length": text.get("context_length", 77), **text.get("tokenizer_kwargs", {})}
    name = text.get("hf_tokenizer_name")
    if not name:
        return SimpleTokenizer(**options)
    try:
        with _quiet():
            return HFTokenizer(name, tokenizer_mode=text.get("tokenizer_mode"), **options)
    except Exception as error:
        raise UserError(
            f"text-tower: the tokenizer {name} could not be had ({one_line(error)}); without a "
            "network, download it elsewhere into the folder of the tower"
        ) from error


def require_open_clip() -> None:
    """Raise UserError unless the libraries of the towers are there."""
    try:
        import open_clip  # noqa: F401 (only whether it is there)
    except ImportError:
        raise UserError("pairs need open_clip: pip install 'sogclr[pairs]'") from None


def _whole(
    request: TowerSettings, kinds: tuple[str, str], frozen: tuple[str, ...]
) -> tuple[PairSpec, dict[str, Tower]]:
    """An open_clip model by name, folder or configuration file."""
    import open_clip

    name, path = str(request.model), Path(str(request.model))
    if path.suffix == ".json" and path.is_file():
        name = _register(path)
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
            f"({one_line(error)}); without a network, download the weights elsewhere and pass "
            "the file with --pretrained"
        ) from error
    config = open_clip.get_model_config(name)
    if path.is_dir() and "hf_tokenizer_name" in config["text_cfg"]:
        config["text_cfg"]["hf_tokenizer_name"] = str(path)
    prepared = open_clip.get_model_preprocess_cfg(model)
    size = model.visual.image_size
    if "image" in kinds:
        _check_widths(name, model, config)
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


def _register(path: Path) -> str:
    """Tell open_clip of a file with a configuration, for good; the name it has there."""
    import open_clip

    try:
        config = json.loads(path.read_text())
        lacks = [n for n in ("embed_dim", "vision_cfg", "text_cfg") if n not in config]
        if lacks:
            raise UserError(f"model: {path} is no configuration of open_clip: it lacks {lacks[0]}")
        open_clip.add_model_config(path)
    except (OSError, ValueError) as error:
        raise UserError(f"model: {path} cannot be read ({one_line(error)})") from error
    return path.stem


def _check_widths(name: str, model: Any, config: dict[str, Any]) -> None:
    """Both towers must end in one space; without a projection they end where they like."""
    size = model.visual.image_size
    sides = (size, size) if isinstance(size, int) else tuple(size)
    model.eval()
    with torch.no_grad():
        image = model.encode_image(torch.zeros(1, 3, *sides))
        text = model.encode_text(
            torch.zeros(1, config["text_cfg"].get("context_length", 77), dtype=torch.int64)
        )
    model.train()
    if image.shape != text.shape:
        raise UserError(
            f"model: the towers of {name} do not end in one space but in widths "
            f"{image.shape[-1]} and {text.shape[-1]}; give both a projection"
        )


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
    request: TowerSettings, kinds: tuple[str, str], frozen: tuple[str, ...], image_size: int
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
    if module is None and "image" in kinds:
        body: Any = towers["image"].body
        if request.image_weights is not None:
            load_weights(body.trunk, Path(request.image_weights), "image-weights")
        width_of(body, spec.image_size, "image-tower")
    return spec, towers


def _with_image(spec: PairSpec, request: TowerSettings) -> tuple[PairSpec, nn.Module | None]:
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
    require_known(tower, "image_tower")
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


def _as_configured(spec: PairSpec, request: TowerSettings, config: dict[str, Any]) -> PairSpec:
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
    from open_clip.hf_configs import arch_dict
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name)
    except Exception as error:
        raise UserError(
            f"text-tower: {name} is neither a folder with a Hugging Face model nor one that can "
            f"be fetched ({one_line(error)}); without a network, download it elsewhere and pass "
            "its folder"
        ) from error
    if config.model_type not in arch_dict:
        raise UserError(
            f"text-tower: {name} is a {config.model_type}; open_clip builds {', '.join(arch_dict)}"
        )
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
            config = spec.text if kind == "text" else spec.vision or {}
            name = config.get("hf_model_name") or config.get("timm_model_name") or "it"
            raise UserError(
                f"{kind}-tower: {name} could not be built ({one_line(error)}); without a "
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
        features = width_of(trunk, spec.image_size, "image-tower")
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
