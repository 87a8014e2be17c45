"""Both kinds of tokenizers that open_clip has."""

import pytest
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer


@pytest.fixture(params=["open_clip", "Hugging Face"])
def make_tokenizer(request, bert):
    def make(length):
        if request.param == "open_clip":
            return SimpleTokenizer(context_length=length)
        return HFTokenizer(str(bert), context_length=length)

    return make
