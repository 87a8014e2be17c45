"""Build the towers that a user requests, or that a run has stored, and their tokenizer."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..common.errors import UserError, one_line
from ..common.options import TowerInputSettings, TowerSettings
from .joined_towers import build_from_spec, build_joined, count_positions, describe_joined
from .open_clip_towers import build_open_clip
from .tokenizers import TowerTokenizer
from .towers import PairSpec, Tower

__all__ = [
    "build_towers",
    "describe_inputs",
    "quiet",
    "rebuild_towers",
    "require_open_clip",
    "tokenizer_of",
    "use_folder",
]


def build_towers(
    request: TowerSettings, kinds: tuple[str, str], frozen: tuple[str, ...], image_size: int
) -> tuple[PairSpec, dict[str, Tower]]:
    """Build towers with their initial weights, and describe them.

    Args:
        request: the requested towers.
        kinds: kinds of side a and side b, "image" or "text".
        frozen: kinds of the towers that are not trained.
        image_size: image size of the data in pixels, for towers that accept any size.

    Raises:
        UserError: a name is unknown (the nearest are named), weights are missing or do not fit, or
            settings contradict each other.
    """
    require_open_clip()
    with quiet():
        if request.model is not None:
            return build_open_clip(request, kinds, frozen)
        return build_joined(request, kinds, frozen, image_size)


def describe_inputs(
    request: TowerInputSettings, kinds: tuple[str, str], frozen: tuple[str, ...], image_size: int
) -> tuple[PairSpec, TowerTokenizer]:
    """Describe what towers receive, without the weights of joined ones.

    Args:
        request: the requested towers.
        kinds, frozen, image_size: see `build_towers`.

    Returns:
        The description of the towers, and the tokenizer of the text tower.

    Raises:
        UserError: see `build_towers`.
    """
    require_open_clip()
    wanted = TowerSettings(**{f.name: getattr(request, f.name) for f in fields(TowerInputSettings)})
    with quiet():
        if request.model is not None:
            spec, towers = build_open_clip(wanted, kinds, frozen)
        else:
            spec = describe_joined(wanted, kinds, frozen, image_size)[0]
            text = {**spec.text, "hf_model_pretrained": False}
            with torch.device("meta"):  # the tokenizer is checked against shapes alone
                towers = build_from_spec(replace(spec, kinds=("text", "text"), text=text), None)
    return spec, tokenizer_of(spec, towers)


def rebuild_towers(spec: PairSpec, text_folder: Path, module: nn.Module | None) -> dict[str, Tower]:
    """Build the towers of a stored description, with untrained weights.

    Args:
        spec: description of the towers.
        text_folder: the run's folder with configuration and tokenizer of a Hugging Face tower.
        module: the user's own image tower, if the run trained one.

    Raises:
        UserError: the towers cannot be built.
    """
    require_open_clip()
    with quiet():
        spec = use_folder(spec, text_folder)
        text = {**spec.text, "hf_model_pretrained": False}
        vision = spec.vision and {**spec.vision, "timm_model_pretrained": False}
        try:
            return build_from_spec(replace(spec, text=text, vision=vision), module)
        except UserError:
            raise
        except Exception as error:  # open_clip and transformers raise many kinds
            raise UserError(f"run: its towers cannot be built ({one_line(error)})") from error


def use_folder(spec: PairSpec, text_folder: Path) -> PairSpec:
    """Replace the names of a Hugging Face tower and tokenizer by a folder that holds them."""
    names = {"hf_model_name", "hf_tokenizer_name"} & spec.text.keys()
    return replace(spec, text={**spec.text, **dict.fromkeys(names, str(text_folder))})


def tokenizer_of(
    spec: PairSpec, towers: dict[str, Tower], text_folder: Path | None = None
) -> TowerTokenizer:
    """Make the tokenizer of the text tower, which maps n strings to token ids `(n, L)`.

    Args:
        spec: description of the towers.
        towers: the towers by kind.
        text_folder: the run's folder with a Hugging Face tokenizer. Default: the name or folder
            that the tower was built from.

    Raises:
        UserError: the tokenizer cannot be loaded, or does not fit the tower.
    """
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    text = spec.text if text_folder is None else use_folder(spec, text_folder).text
    options = {"context_length": text.get("context_length", 77), **text.get("tokenizer_kwargs", {})}
    name = text.get("hf_tokenizer_name")
    _require_positions(towers["text"].body, options["context_length"], text_folder)
    if not name:
        plain = SimpleTokenizer(**options)
        return TowerTokenizer(plain, towers["text"], "--model: open_clip's own tokenizer")
    try:
        with quiet():
            mode = text.get("tokenizer_mode")
            tokenizer = HFTokenizer(name, tokenizer_mode=mode, trust_remote_code=False, **options)
            # Damage may show only in use: no token for padding, or for unknown words.
            fitting = TowerTokenizer(tokenizer, towers["text"], _name_tokenizer(name, text_folder))
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"--text-tower: the tokenizer {name} could not be loaded ({one_line(error)}); without "
            "a network, download it on another machine into the tower's folder"
        ) from error
    if text_folder is not None:
        _require_vocabulary(tokenizer.tokenizer, text_folder)
    return fitting


def _require_positions(body: Any, length: int, text_folder: Path | None) -> None:
    """Refuse more tokens of a text than a Hugging Face tower has positions for."""
    most = count_positions(body.config) if hasattr(body, "config") else None
    if most is not None and length > most:
        place = "--context-length" if text_folder is None else f"run: {text_folder}"
        raise UserError(f"{place}: the text tower takes {most} tokens of a text, not {length}")


def _name_tokenizer(name: str, text_folder: Path | None) -> str:
    """Name the file of a tokenizer, or the tokenizer itself, for messages."""
    option = "--text-tower" if text_folder is None else "run"
    file = Path(name) / "tokenizer.json"
    return f"{option}: {file}" if file.is_file() else f"{option}: the tokenizer {name}"


def _require_vocabulary(tokenizer: Any, folder: Path) -> None:
    """Refuse a folder that has lost files of its tokenizer; transformers makes an empty one.

    Args:
        tokenizer: the tokenizer of transformers that was loaded from the folder.
        folder: the run's folder, which has all files that the tokenizer once wrote.

    Raises:
        UserError: the settings or the vocabulary of the tokenizer are missing.
    """
    vocabularies = list(tokenizer.vocab_files_names.values())
    for names in (["tokenizer_config.json"], vocabularies):
        if names and not any((folder / name).is_file() for name in names):
            raise UserError(
                f"run: {folder / names[-1]} is missing, a part of the tokenizer; put the file back"
            )


def require_open_clip() -> None:
    """Raise UserError unless open_clip is installed."""
    try:
        import open_clip  # noqa: F401 (only to see whether it is installed)
    except ImportError:
        raise UserError("pairs need open_clip: pip install 'sogclr[pairs]'") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Silence messages of open_clip and transformers about settings that are intended here."""
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
