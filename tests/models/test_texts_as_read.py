"""What a text tower reads of a text, counted against what its tokenizer gives to the tower."""

import pytest
from open_clip.tokenizer import SimpleTokenizer

from sogclr.models.text_lengths import count_tokens
from sogclr.models.texts_as_read import read_texts

TEXTS = [
    "a picture",
    "a very red picture of the 3 in the picture of a very red picture of the 3 7 9",
    "the the the the the the the the the the the the the the the the the the",
    "unknowable \U0001f600 words <b>in</b> the picture",
    "1",
]


@pytest.mark.parametrize("length", [3, 8, 64])
def test_as_many_tokens_are_read_as_the_tower_receives(make_tokenizer, length):
    tokenizer = make_tokenizer(length)
    counts = count_tokens(tokenizer, TEXTS)  # with one token at the start and one at the end
    for text, count, found in zip(TEXTS, counts, read_texts(tokenizer, TEXTS), strict=True):
        assert found.tokens == count - 2, text
        assert found.tokens - found.cut == min(count, length) - 2, text


def test_the_first_tokens_are_read_and_the_rest_is_cut(make_tokenizer):
    whole = read_texts(make_tokenizer(64), TEXTS)
    for text, all_of_it, found in zip(
        TEXTS, whole, read_texts(make_tokenizer(8), TEXTS), strict=True
    ):
        assert [piece.is_read for piece in found.pieces] == [True, False][: len(found.pieces)], text
        joined = "".join(piece.text for piece in found.pieces)
        shown = "".join(piece.text for piece in all_of_it.pieces)
        assert "".join(joined.split()) == "".join(shown.split()), text
        assert found.cut == max(0, all_of_it.tokens - 6)


def test_a_tokenizer_that_drops_other_tokens_is_shown_as_it_is():
    class Reversed(SimpleTokenizer):
        def __call__(self, texts, context_length=None):
            return super().__call__([text[-9:] for text in texts])

    (found,) = read_texts(Reversed(context_length=16), ["the red dog has a blue ball"])
    assert [(piece.text, piece.is_read) for piece in found.pieces] == [
        ("the red dog has a", False),
        ("blue ball", True),
    ]


def test_no_texts_are_no_work():
    assert read_texts(None, []) == []
