"""Which texts are cut is counted and said, and the length can be chosen."""

import json

import numpy as np
import pytest
import torch

import sogclr
from sogclr import UserError
from sogclr.data.texts import Texts
from sogclr.models.text_lengths import choose_texts, count_tokens, describe_cut
from sogclr.runs.folder import Run

TEXTS = ["a", "a very very red picture of 12", "a " * 50, "", "Naïve café 狗 😀", "x" * 300]


def test_a_text_is_cut_if_its_tokens_do_not_fit(make_tokenizer):
    """As seen in the tokens themselves: a longer context adds some that are not padding."""
    for limit in (3, 7, 9, 20, 51):
        tokenizer = make_tokenizer(limit)
        longer = tokenizer(TEXTS, context_length=limit + 1)
        expected = (longer[:, -1] != 0).tolist()  # both pad with 0
        found = [count > limit for count in count_tokens(tokenizer, TEXTS)]
        assert found == expected
        assert any(found)
        share, text = describe_cut(tokenizer, [TEXTS[:3], TEXTS[3:]])
        assert share == sum(expected) / 6
        assert f"{share:.1%} of 6 texts are longer than {limit} tokens and are cut" in text
    share, text = describe_cut(make_tokenizer(400), [TEXTS])
    assert (share, text) == (0, "none of 6 texts is longer than 400 tokens")


def test_of_many_texts_the_longest_and_some_of_all_parts_are_counted():
    side = Texts([f"text {i}" for i in range(20_000)] + ["long " * 99] + ["end", "last"])
    chosen = choose_texts(side)
    assert chosen[0] == "long " * 99
    assert len(chosen) == len(set(chosen)) <= 5002
    numbers = [int(text.split()[1]) for text in chosen[1:] if text.startswith("text")]
    assert np.histogram(numbers, 10, (0, 20_000))[0].min() >= 400
    few = Texts(["x", "y", "zz"])
    assert sorted(choose_texts(few)) == ["x", "y", "zz"]


@pytest.fixture
def long_texts():
    """Questions that differ from their 25th word on."""
    start = "a very red picture of the " * 4
    return {
        "question": [f"{start} {i // 4} {i % 4}" for i in range(16)],
        "answer": [f"a {i}" for i in range(16)],
    }


def _distinct(run, texts):
    return len(np.unique(sogclr.load(run).encode_text(texts).numpy().round(4), axis=0))


@pytest.mark.parametrize(
    ("tower", "own"), [("model", 16), ("text_tower", 32), ("small", 32)]
)  # fmt: skip
def test_the_share_that_is_cut_is_said_before_training(
    long_texts, bert, tiny, tmp_path, capsys, tower, own
):
    towers = {"model": {"model": str(tiny)}, "text_tower": {"text_tower": str(bert)}, "small": {}}
    settings = {**towers[tower], "epochs": 1, "batch_size": 8, "device": "cpu", "workers": 0}
    for length in (None, 8, own):
        out = tmp_path / f"run{length}"
        sogclr.align(long_texts, out, context_length=length, **settings)
        lines = capsys.readouterr().err.splitlines()
        (line,) = [line for line in lines if line.strip().startswith("context length")]
        limit = length or own
        tokenizer = sogclr.load(out).tokenizer
        assert tokenizer.context_length == limit
        counts = count_tokens(tokenizer, [*long_texts["question"], *long_texts["answer"]])
        cut = sum(count > limit for count in counts)
        assert f"{cut / 32:.1%} of 32 texts" in line if cut else "none of 32 texts" in line
        assert ("as given" in line) == (length is not None)
        assert lines.index(line) < len(lines) - 2  # before the first line of training
        reasons = {name: value for name, value, _ in Run(out).read_settings()["reasons"]}
        assert reasons["context length"] == f"{limit} tokens"
        assert reasons["text tower"] == next(iter(towers[tower].values()), "small")
        if limit == 8:
            assert cut == 16
            assert _distinct(out, long_texts["question"]) == 1
            sogclr.evaluate(out, long_texts)
            assert "100.0% of 16 texts are longer than 8 tokens" in capsys.readouterr().err


def test_the_share_of_what_is_held_back_is_said_too(long_texts, tmp_path, capsys):
    settings = {"epochs": 1, "batch_size": 8, "device": "cpu", "workers": 0}
    start = "one two three four five six seven eight nine ten " * 4
    for question, expected in (("short", "none of 8 texts"), (start, "50.0% of 8 texts are lon")):
        held = {"question": [f"{question} {i}" for i in range(4)], "answer": list("abcd")}
        sogclr.align(long_texts, tmp_path / question[:5], val=held, **settings)
        lines = [line.strip() for line in capsys.readouterr().err.splitlines()]
        (place,) = [i for i, line in enumerate(lines) if line.startswith("context length")]
        assert lines[place + 1].startswith(f"held back: {expected}")


def test_the_small_tower_takes_as_many_tokens_as_are_asked_for(long_texts, tmp_path):
    settings = {"epochs": 1, "batch_size": 8, "device": "cpu", "workers": 0}
    sogclr.align(long_texts, tmp_path / "run", context_length=40, **settings)
    assert sogclr.load(tmp_path / "run").spec.text["context_length"] == 40
    assert _distinct(tmp_path / "run", long_texts["question"]) == 16


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"context_length": 2}, "--context-length: must be at least 3, .* got 2"),
        ({"context_length": -1}, "--context-length: must be at least 3"),
        ({"context_length": 33, "text_tower": "bert"}, "--context-length: .* takes 32 tokens, not"),
        ({"context_length": 9, "text_tower": "roberta"}, "takes 8 tokens, not 9"),
    ],
)
def test_more_tokens_than_the_tower_takes_are_refused(
    long_texts, bert, roberta, tmp_path, given, message
):
    places = {"bert": bert, "roberta": roberta}
    given = {name: str(places.get(value, value)) for name, value in given.items()}
    given["context_length"] = int(given["context_length"])
    with pytest.raises(UserError, match=message):
        sogclr.align(long_texts, tmp_path / "run", device="cpu", **given)


@pytest.fixture
def roberta(tmp_path, bert):
    """A tower whose first two positions are for padding."""
    from transformers import AutoTokenizer, RobertaConfig, RobertaModel

    tokenizer = AutoTokenizer.from_pretrained(bert)
    config = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=10, pad_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    RobertaModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "roberta")
    tokenizer.save_pretrained(tmp_path / "roberta")
    return tmp_path / "roberta"


def test_a_tower_takes_all_its_positions_by_default(roberta, long_texts, tmp_path):
    """One token too many would read a position that does not exist."""
    settings = {"epochs": 1, "batch_size": 8, "device": "cpu", "workers": 0}
    sogclr.align(long_texts, tmp_path / "run", text_tower=str(roberta), **settings)
    stored = json.loads((tmp_path / "run" / "towers.json").read_text())
    assert stored["text"]["context_length"] == 8


def test_trained_weights_of_open_clip_keep_their_positions(long_texts, tiny, tmp_path):
    import open_clip
    from safetensors.torch import save_file

    open_clip.add_model_config(tiny)
    model = open_clip.create_model("tiny", force_custom_text=True)
    weights = tmp_path / "weights.safetensors"
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, weights)
    towers = {"model": str(tiny), "device": "cpu", "batch_size": 8, "epochs": 1}
    given = {**towers, "pretrained": str(weights)}
    for length in (15, 17, 77):
        with pytest.raises(UserError, match=f"trained with 16 tokens, not {length}; leave it out"):
            sogclr.align(long_texts, tmp_path / "run", context_length=length, **given)
    sogclr.align(long_texts, tmp_path / "run", context_length=16, **given)
    sogclr.align(long_texts, tmp_path / "new", context_length=40, **towers)
    assert _distinct(tmp_path / "new", long_texts["question"]) == 16
