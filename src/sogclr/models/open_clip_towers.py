"""Towers of an open_clip model, by name, folder or configuration file."""

import difflib
import json
from pathlib import Path
from typing import Any

import torch

from ..common.console import say
from ..common.errors import UserError, one_line
from ..common.options import TowerSettings
from .joined_towers import choose_length, require_hugging_face
from .patches import describe_unseen, first_patch, require_seen, require_whole_patches
from .tower_keys import require_text, require_vision
from .towers import PairSpec, Tower

__all__ = ["build_open_clip", "require_known_model"]


def build_open_clip(
    request: TowerSettings, kinds: tuple[str, str], frozen: tuple[str, ...]
) -> tuple[PairSpec, dict[str, Tower]]:
    """Build the two towers of an open_clip model, and describe them.

    Args:
        request: the request; `model` is a name, a folder or a configuration file.
        kinds: kinds of side a and side b.
        frozen: kinds of the towers that are not trained.

    Raises:
        UserError: the name is unknown, the weights are missing or do not fit, or the towers end in
            different widths.
    """
    import open_clip

    require_known_model(request.model, request.pretrained)
    name, path = str(request.model), Path(str(request.model))
    if path.suffix == ".json" and path.is_file():
        name = _register(path)
    elif path.is_dir():
        name = f"local-dir:{path}"
    _check_tag(name, request.pretrained)
    _check_config(name)
    try:
        model = open_clip.create_model(
            name,
            pretrained=request.pretrained,
            force_custom_text=True,
            force_context_length=request.context_length,
            output_dict=False,
        )
    except Exception as error:
        raise UserError(
            f"--model: {name} with {request.pretrained or 'its own weights'} could not be built "
            f"({one_line(error)}); without a network, download the weights on another machine and "
            "pass the file with --pretrained"
        ) from error
    config = open_clip.get_model_config(name)
    if path.is_dir() and "hf_tokenizer_name" in config["text_cfg"]:
        config["text_cfg"]["hf_tokenizer_name"] = str(path)
    if request.context_length is not None:
        _check_length(request, name, model, config["text_cfg"])
        config["text_cfg"]["context_length"] = request.context_length
    prepared = open_clip.get_model_preprocess_cfg(model)
    size = model.visual.image_size
    if "image" in kinds:
        _check_widths(name, model, config)
        _check_patches(model.visual, own=path.suffix == ".json" and request.pretrained is None)
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


def require_known_model(model: str | Path | None, tag: str | None) -> None:
    """Refuse a name of a model, or a tag of its weights, that open_clip does not know.

    Raises:
        UserError: the name or the tag is unknown; the message has the nearest ones.
    """
    import open_clip

    name, path = str(model), Path(str(model))
    if path.is_dir() or (path.suffix == ".json" and path.is_file()):
        return
    if ":" not in name and name not in open_clip.list_models():
        near = difflib.get_close_matches(name, open_clip.list_models(), n=4, cutoff=0.4)
        raise UserError(
            f"--model: {name!r} is unknown to open_clip; nearest: {', '.join(near) or 'none'}"
        )
    _check_tag(name, tag)


def _register(path: Path) -> str:
    """Register a configuration file with open_clip; return its name there."""
    import open_clip

    try:
        config = json.loads(path.read_text())
        missing = [n for n in ("embed_dim", "vision_cfg", "text_cfg") if n not in config]
        if missing:
            raise UserError(
                f"--model: {path} is no configuration of open_clip: it lacks {missing[0]}"
            )
        open_clip.add_model_config(path)
    except (OSError, ValueError) as error:
        raise UserError(f"--model: {path} cannot be read ({one_line(error)})") from error
    return path.stem


def _check_length(
    request: TowerSettings, name: str, model: Any, text_config: dict[str, Any]
) -> None:
    """Refuse another context length than the weights have positions for.

    open_clip would stretch the positions without a word.
    """
    if "hf_model_name" in text_config:
        choose_length(name, model.text.config, request.context_length)
        return
    trained = text_config.get("context_length", 77)
    if request.starts_trained() and request.context_length != trained:
        raise UserError(
            f"--context-length: the weights of {name} were trained with {trained} tokens, not "
            f"{request.context_length}; leave it out"
        )


def _check_config(name: str) -> None:
    """Refuse a configuration whose options could run code: it may be a stranger's.

    Raises:
        UserError: the configuration cannot be read, or an option is unknown or impossible.
    """
    import open_clip

    try:
        config = open_clip.get_model_config(name) or {}
        sides = config["vision_cfg"], config["text_cfg"]
    except Exception as error:
        raise UserError(f"--model: {name} cannot be read ({one_line(error)})") from error
    require_vision(sides[0], f"--model: {name}: vision_cfg")
    require_text(sides[1], f"--model: {name}: text_cfg")
    if "hf_model_name" in sides[1]:
        require_hugging_face(sides[1]["hf_model_name"], "model")


def _check_widths(name: str, model: Any, config: dict[str, Any]) -> None:
    """Refuse towers of different output widths: towers without a projection may differ."""
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
            f"--model: the towers of {name} end in different widths, "
            f"{image.shape[-1]} and {text.shape[-1]}; give both a projection"
        )


def _check_patches(visual: Any, own: bool) -> None:
    """Refuse a configuration of one's own whose patches do not cover the image; else say so.

    Some published models (SigLIP at 384 px with patches of 14) were trained without the edge.
    """
    size, patch = visual.image_size, first_patch(visual)
    size = size if isinstance(size, int) else size[0]
    if own:
        require_whole_patches(visual, size, "model")
        require_seen(visual.eval(), size, "model")
        visual.train()
    elif size % patch:
        say(f"  {describe_unseen(size, patch)}, as published")


def _check_tag(name: str, tag: str | None) -> None:
    """Refuse a tag of weights that open_clip does not publish for this model."""
    import open_clip

    if tag is None or Path(tag).is_file() or ":" in name:
        return
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags:
        near = difflib.get_close_matches(tag, tags, n=5, cutoff=0.0)
        raise UserError(
            f"--pretrained: {tag!r} is neither a file nor a tag of {name}; "
            f"nearest: {', '.join(near) or 'none, it has no published weights'}"
        )
