"""A tokenizer in one file makes the tokens of the tower's own."""

import pytest
from open_clip.tokenizer import SimpleTokenizer
from tokenizers import Tokenizer

from sogclr.models.exports.tokenizer_file import write_tokenizer

TEXTS = [
    "A dog, in the SNOW!",
    "it's 1234 o'clock -- they'll see\t(we've  been)",
    "",
    "\u00e9t\u00e9 \u4e2d\u6587 \U0001f600 na\u00efve",
    "word " * 60,
]


class Wrapped:
    def __init__(self, inner):
        self.inner = inner

    def __call__(self, texts):
        return self.inner(texts)


def test_tokens_are_those_of_both_kinds_of_tokenizers(make_tokenizer, tmp_path):
    tokenizer = Wrapped(make_tokenizer(16))
    path = tmp_path / "tokenizer.json"
    assert write_tokenizer(tokenizer, TEXTS, path)
    found = Tokenizer.from_file(str(path)).encode_batch([*TEXTS, "another text"])
    assert [each.ids for each in found] == tokenizer([*TEXTS, "another text"]).tolist()


def test_texts_that_are_repaired_first_are_compared_repaired(tmp_path):
    texts = ["a &amp; b", "caf\u00c3\u00a9"]
    path = tmp_path / "tokenizer.json"
    assert write_tokenizer(Wrapped(SimpleTokenizer(context_length=16)), texts, path)


@pytest.mark.parametrize("settings", [{"reduction_mask": "simple"}, {"clean": "whitespace"}])
def test_a_tokenizer_that_makes_other_tokens_is_not_written(settings, tmp_path):
    path = tmp_path / "tokenizer.json"
    inner = SimpleTokenizer(context_length=16, **settings)
    assert not write_tokenizer(Wrapped(inner), TEXTS, path)
    assert not path.exists()
