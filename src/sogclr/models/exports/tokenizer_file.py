"""Write a tokenizer as one file, which the library `tokenizers` reads alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..tokenizers import TowerTokenizer

__all__ = ["write_tokenizer"]

# The pieces into which open_clip's own tokenizer cuts a text before it joins pairs of bytes.
PIECES = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
START, END = "<start_of_text>", "<end_of_text>"


def write_tokenizer(tokenizer: TowerTokenizer, texts: Sequence[str], path: Path) -> bool:
    """Write a tokenizer that pads and cuts texts to the tower's number of tokens.

    Args:
        tokenizer: the tokenizer of a text tower.
        texts: texts of which both must make the same tokens, once they are repaired: open_clip's
            tokenizers correct wrongly decoded characters and HTML entities first.
        path: the file to write.

    Returns:
        Whether the file was written: some tokenizers do what such a file cannot say.
    """
    inner = tokenizer.inner
    made = _from_hugging_face(inner) if hasattr(inner, "tokenizer") else _from_open_clip(inner)
    if made is None:
        return False
    repaired = [inner.clean_fn(text) for text in texts]
    expected = tokenizer(list(texts)).tolist()
    if [encoding.ids for encoding in made.encode_batch(repaired)] != expected:
        return False
    made.save(str(path))
    return True


def _from_hugging_face(inner: Any) -> Any:
    from tokenizers import Tokenizer

    plain = inner.tokenizer
    backend = getattr(plain, "backend_tokenizer", None)
    if backend is None or inner.tokenizer_mode or inner.strip_sep_token:
        return None
    made = Tokenizer.from_str(backend.to_str())
    made.enable_truncation(inner.context_length, direction=plain.truncation_side)
    made.enable_padding(
        length=inner.context_length,
        pad_id=plain.pad_token_id,
        pad_token=plain.pad_token,
        direction=plain.padding_side,
    )
    return made


def _from_open_clip(inner: Any) -> Any:
    """Make what open_clip's tokenizer does of its vocabulary, but for the repair of texts."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import BPE
    from tokenizers.normalizers import Lowercase, Replace, Sequence, Strip
    from tokenizers.pre_tokenizers import ByteLevel, Split
    from tokenizers.pre_tokenizers import Sequence as Steps
    from tokenizers.processors import TemplateProcessing

    if inner.reduction_fn is not None:
        return None
    model = BPE(inner.encoder, list(inner.bpe_ranks), end_of_word_suffix="</w>")
    made = Tokenizer(model)
    made.normalizer = Sequence([Replace(Regex(r"\s+"), " "), Strip(), Lowercase()])
    pieces = Split(Regex(PIECES), "removed", invert=True)
    made.pre_tokenizer = Steps([pieces, ByteLevel(add_prefix_space=False, use_regex=False)])
    ends = [(START, inner.sot_token_id), (END, inner.eot_token_id)]
    made.post_processor = TemplateProcessing(single=f"{START} $A {END}", special_tokens=ends)
    made.enable_truncation(inner.context_length)
    made.enable_padding(length=inner.context_length, pad_id=0, pad_token="!")
    return made
