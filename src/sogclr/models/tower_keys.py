"""The options of open_clip that a stored or given configuration may have; code is never run.

A configuration may come from a stranger, as part of a run or of a model. Each of its options has
its type here. Options that are not here are refused: some make libraries fetch and run code.
"""

import json
from pathlib import Path
from typing import Any, Literal, TypedDict

from ..common.errors import UserError, one_line
from ..common.regular_files import open_regular_file
from ..common.stored_fields import ANOTHER_VERSION, require_type
from .encoders import require_known
from .text_config import IMPLEMENTATIONS, keep_known_options, require_known_options

__all__ = ["drop_other_keys", "require_no_code", "require_text", "require_vision"]

LARGEST = {"layers": 1_000, "context_length": 100_000}
LARGEST_NUMBER = 10_000_000  # of all others; vocabularies have up to 260,000 entries

# The files of a Hugging Face configuration and tokenizer; weights and code are none of them.
TEXT_FILES = (".json", ".txt", ".model", ".jinja")
# Keys in them that make transformers fetch or run code, whatever their value.
CODE_KEYS = ("auto_map", "custom_pipelines", "quantization_config")


class _Activation(TypedDict, total=False):
    approximate: Literal["none", "tanh"]


class _Norm(TypedDict, total=False):
    eps: float


class _Tokenizer(TypedDict, total=False):
    clean: Literal["whitespace", "lower", "canonicalize"]
    strip_sep_token: bool
    language: str | None


class _Transformer(TypedDict, total=False):
    """The options that both towers have."""

    layers: int | list[int] | tuple[int, ...]
    width: int
    mlp_ratio: float
    ls_init_value: float | None
    final_ln_after_pool: bool
    pool_type: Literal["tok", "avg", "none", "argmax", "first", "last", "eos"]
    output_tokens: bool
    act_kwargs: _Activation | None
    norm_kwargs: _Norm | None
    block_type: Literal["default", "custom"] | None
    qk_norm: bool
    scaled_cosine_attn: bool
    scale_heads: bool
    scale_attn_inner: bool
    scale_attn: bool
    scale_fc: bool


class _Vision(_Transformer, total=False):
    head_width: int
    patch_size: int | None
    image_size: int | list[int] | tuple[int, ...]
    patch_dropout: float
    attentional_pool: bool
    attn_pooler_queries: int
    attn_pooler_heads: int
    no_ln_pre: bool
    pos_embed_type: Literal["learnable", "sin_cos_2d"]
    timm_model_name: str
    timm_model_pretrained: bool
    timm_pool: Literal["abs_attn", "rot_attn", "avg", "token", "map", "max", "avgmax", ""]
    timm_proj: Literal["linear", "mlp", "none", ""] | None
    timm_proj_bias: bool
    timm_drop: float
    timm_drop_path: float | None


class _Text(_Transformer, total=False):
    context_length: int
    vocab_size: int
    heads: int
    embed_cls: bool
    pad_id: int
    eos_id: int
    no_causal_mask: bool
    proj_bias: bool
    proj_type: Literal["linear", "none"]
    tokenizer_mode: Literal["clips"] | None
    tokenizer_kwargs: _Tokenizer
    hf_tokenizer_name: str
    hf_model_name: str
    hf_model_pretrained: bool
    hf_proj_type: Literal["linear", "mlp"] | None
    hf_pooler_type: Literal[
        "mean_pooler", "max_pooler", "cls_pooler", "cls_last_hidden_state_pooler"
    ]


def require_vision(options: Any, name: str, *, is_custom: bool = False) -> None:
    """Refuse options of an image tower that are unknown or impossible.

    Args:
        options: open_clip's `vision_cfg`.
        name: the name of the options, for messages.
        is_custom: whether the tower is the user's own module, so that only its head is described.

    Raises:
        UserError: an option is unknown, has another type, or names an unknown model.
    """
    _require(options, _Vision, name)
    if is_custom and "timm_proj" not in options:
        raise UserError(f"{name}: timm_proj is missing; {ANOTHER_VERSION}")
    if "timm_model_name" in options and not is_custom:
        require_known(options["timm_model_name"], f"{name}: timm_model_name")


def require_text(options: Any, name: str) -> None:
    """Refuse options of a text tower that are unknown or impossible.

    Args:
        options: open_clip's `text_cfg`.
        name: the name of the options, for messages.

    Raises:
        UserError: an option is unknown or has another type.
    """
    _require(options, _Text, name)


def _require(options: Any, kind: Any, name: str) -> None:
    require_type(options, kind, name)
    for key, value in options.items():
        for number in value if isinstance(value, list | tuple) else (value,):
            largest = LARGEST.get(key, LARGEST_NUMBER)
            if isinstance(number, int | float) and not -1 <= number <= largest:
                raise UserError(f"{name}: {key} must be at most {largest:,}, got {number:g}")


def require_no_code(folder: Path) -> None:
    """Refuse a folder with a Hugging Face configuration or tokenizer that brings code.

    Args:
        folder: the folder of a run or of a model.

    Raises:
        UserError: the folder is missing, holds other files, names code, or has a configuration
            with an option that no text tower is built of.
    """
    if not folder.is_dir():
        raise UserError(f"run: {folder} is missing, which holds the tokenizer; put it back")
    for path in sorted(folder.iterdir()):
        if path.suffix not in TEXT_FILES:
            raise UserError(
                f"run: {path} is neither configuration nor tokenizer, and nothing that comes with "
                "a run is executed; remove it"
            )
        if path.name.endswith("config.json"):
            _require_no_code_keys(path)


def _require_no_code_keys(path: Path) -> None:
    """Refuse a JSON file of Hugging Face that names code to run, or has unknown options.

    Raises:
        UserError: the file cannot be read, or has such an entry.
    """
    found = _read(path)
    for key in filter(lambda key: _names_code(key, found[key]), found):
        raise UserError(
            f"run: {path} names code to run ({key}), and nothing that comes with a run is "
            "executed; remove this entry if the model works without it"
        )
    if path.name == "config.json":
        require_known_options(found, f"run: {path}")


def drop_other_keys(folder: Path) -> None:
    """Drop from a new run's configuration and tokenizer what `require_no_code` would refuse.

    Published models may name code of their own, even if transformers builds them without it.
    """
    for path in folder.glob("*config.json"):
        found = _read(path)
        plain = {key: value for key, value in found.items() if not _names_code(key, value)}
        if path.name == "config.json":
            plain = keep_known_options(plain, str(path))
        if plain != found:
            path.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")


def _names_code(key: str, value: Any) -> bool:
    foreign = key.endswith("_implementation") and value not in IMPLEMENTATIONS
    return key in CODE_KEYS or foreign


def _read(path: Path) -> dict[str, Any]:
    try:
        with open_regular_file(path) as file:
            found = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"run: {path} cannot be read ({one_line(error)})") from error
    if not isinstance(found, dict):
        raise UserError(f"run: {path} is damaged (it is no object)")
    return found
