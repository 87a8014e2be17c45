"""The options of transformers that the stored configuration of a text tower may have.

Each kind of tower has the options that its layers are built of, with their types. Others are not
stored with a run, and are refused in a run: a configuration may come from a stranger.
"""

from collections.abc import Mapping
from typing import Any, Literal, TypedDict

from ..common.errors import UserError
from ..common.stored_fields import ANOTHER_VERSION, require_type

__all__ = ["IMPLEMENTATIONS", "keep_known_options", "require_known_options"]

LARGEST_LAYERS = 1_000
LARGEST_NUMBER = 10_000_000  # of all others; vocabularies have up to 260,000 entries

# Implementations of layers within transformers and torch; other names are fetched and run.
IMPLEMENTATIONS = (None, "eager", "sdpa", "flex_attention", "flash_attention_2")

Implementation = Literal["eager", "sdpa", "flex_attention", "flash_attention_2"] | None
FloatType = Literal["float32", "float16", "bfloat16"] | None


class _Text(TypedDict, total=False):
    """The options that all kinds have."""

    model_type: str
    architectures: list[str] | None
    transformers_version: str | None
    dtype: FloatType
    torch_dtype: FloatType
    attn_implementation: Implementation
    _attn_implementation: Implementation
    vocab_size: int
    pad_token_id: int
    bos_token_id: int | None
    eos_token_id: int | list[int] | None
    decoder_start_token_id: int | None
    is_encoder_decoder: bool
    is_decoder: bool
    tie_word_embeddings: bool
    use_cache: bool
    chunk_size_feed_forward: int


class _Bert(_Text, total=False):
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    hidden_act: str
    hidden_dropout_prob: float
    attention_probs_dropout_prob: float
    max_position_embeddings: int
    position_embedding_type: Literal["absolute", "relative_key", "relative_key_query"]
    type_vocab_size: int
    initializer_range: float
    layer_norm_eps: float
    classifier_dropout: float | None
    add_cross_attention: bool


class _T5(_Text, total=False):
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_decoder_layers: int
    num_heads: int
    relative_attention_num_buckets: int
    relative_attention_max_distance: int
    dropout_rate: float
    classifier_dropout: float | None
    layer_norm_epsilon: float
    initializer_factor: float
    feed_forward_proj: str
    dense_act_fn: str
    is_gated_act: bool


class _M2M(_Text, total=False):
    max_position_embeddings: int
    d_model: int
    encoder_layers: int
    encoder_ffn_dim: int
    encoder_attention_heads: int
    encoder_layerdrop: float
    decoder_layers: int
    decoder_ffn_dim: int
    decoder_attention_heads: int
    decoder_layerdrop: float
    num_hidden_layers: int
    activation_function: str
    dropout: float
    attention_dropout: float
    activation_dropout: float
    init_std: float
    scale_embedding: bool


# By `model_type`: the kinds that open_clip builds.
KINDS: dict[Any, Any] = {
    "bert": _Bert,
    "roberta": _Bert,
    "xlm-roberta": _Bert,
    "mt5": _T5,
    "m2m_100": _M2M,
}


def keep_known_options(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Keep the options that a text tower is built of.

    Published models have others, of uses that no tower has: names of classes, tasks, their author.

    Args:
        found: the configuration, as transformers stores it.
        name: the name of the configuration, for messages.

    Raises:
        UserError: the kind of the tower is unknown, or an option has another type or is too large.
    """
    kind = _require_kind(found, name)
    kept = {key: value for key, value in found.items() if key in kind.__annotations__}
    _require_values(kept, kind, name)
    return kept


def require_known_options(found: Mapping[str, Any], name: str) -> None:
    """Refuse a configuration with other options than `keep_known_options` keeps.

    Args:
        found: the configuration, which may come from a stranger.
        name: the name of the configuration, for messages.

    Raises:
        UserError: as of `keep_known_options`, or an option is unknown.
    """
    kind = _require_kind(found, name)
    for key in found:
        if key not in kind.__annotations__:
            raise UserError(
                f"{name}: {key!r} is no option that a text tower is built of; remove it"
            )
    _require_values(found, kind, name)


def _require_kind(found: Mapping[str, Any], name: str) -> Any:
    found_kind = found.get("model_type")
    if not isinstance(found_kind, str) or found_kind not in KINDS:
        raise UserError(
            f"{name} is a {str(found_kind)[:40]}, of a kind that open_clip does not build; it "
            f"builds {', '.join(KINDS)}"
        )
    return KINDS[found_kind]


def _require_values(found: Mapping[str, Any], kind: Any, name: str) -> None:
    require_type(dict(found), kind, name)
    for key, value in found.items():
        largest = LARGEST_LAYERS if key.endswith("_layers") else LARGEST_NUMBER
        if isinstance(value, int | float) and not -1 <= value <= largest:
            raise UserError(
                f"{name}: {key} must be at most {largest:,}, got {value:g}; {ANOTHER_VERSION}"
            )
