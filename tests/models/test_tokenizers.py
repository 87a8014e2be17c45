"""A tokenizer that does not fit its text tower is refused in one line, with both numbers."""

import pickle
import shutil

import pytest
from helpers.json_files import change_json

pytest.importorskip("open_clip")

import sogclr
from sogclr import UserError


@pytest.fixture(params=["joined", "trained"])
def copied(request, tmp_path):
    """A run with a Hugging Face tokenizer, and with or without such a tower, to be changed."""
    shutil.copytree(request.getfixturevalue(request.param), tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def tower(bert, tmp_path):
    """A folder with a text tower, to be changed."""
    shutil.copytree(bert, tmp_path / "tower")
    return tmp_path / "tower"


def a_word_beyond(content):
    content["model"]["vocab"]["picture"] = 4000


def the_end_of_texts_beyond(content):
    content["model"]["vocab"]["[SEP]"] = 4001
    for token in content["added_tokens"]:
        token["id"] = 4001 if token["content"] == "[SEP]" else token["id"]


def an_added_word_beyond(content):
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    # The library gives it the next id, whatever stands here.
    content["added_tokens"].append({"id": 35, "content": "dog", "special": False, **added})


BEYOND = {a_word_beyond: 4000, the_end_of_texts_beyond: 4001}


@pytest.mark.parametrize("edit", BEYOND)
def test_a_run_whose_tokenizer_goes_beyond_the_table_is_refused(copied, pairs, edit):
    change_json(copied / "text" / "tokenizer.json", edit)
    match = rf"^run: .*tokenizer.json has a token with the id {BEYOND[edit]}, but .* has \d+ rows"
    with pytest.raises(UserError, match=match):
        sogclr.load(copied)
    with pytest.raises(UserError, match=match):
        sogclr.align(pairs, copied, resume=True, device="cpu")


@pytest.mark.parametrize("edit", BEYOND)
def test_a_tower_whose_tokenizer_goes_beyond_the_table_is_refused(tower, pairs, tmp_path, edit):
    change_json(tower / "tokenizer.json", edit)
    settings = {"text_tower": str(tower), "image_size": 16, "epochs": 1, "device": "cpu"}
    with pytest.raises(UserError, match=rf"^--text-tower: .*the id {BEYOND[edit]}, .* rows"):
        sogclr.align(pairs, tmp_path / "run", **settings)


def test_a_token_that_was_added_beyond_the_table_is_refused_when_a_text_has_it(joined, tmp_path):
    shutil.copytree(joined, tmp_path / "copy")
    change_json(tmp_path / "copy" / "text" / "tokenizer.json", an_added_word_beyond)
    encoder = sogclr.load(tmp_path / "copy")
    assert encoder.encode_text(["a picture"]).shape[0] == 1
    with pytest.raises(UserError, match=r"\.json has a token with the id 35, but .* 35 rows"):
        encoder.encode_text(["a picture", "a dog"])


def test_a_vocabulary_too_small_for_open_clips_own_tokenizer_is_refused(
    make_config, pairs, tmp_path
):
    path = make_config(text_cfg={"vocab_size": 300})
    change_json(path, lambda content: content["text_cfg"].pop("hf_tokenizer_name"))
    with pytest.raises(UserError, match=r"own tokenizer has .* the id 49407, .* 300 rows"):
        sogclr.align(pairs, tmp_path / "run", model=str(path), epochs=1, device="cpu")


def test_more_tokens_than_positions_are_refused(joined, tmp_path):
    shutil.copytree(joined, tmp_path / "copy")
    edits = (
        lambda content: content["text"].update(context_length=33),
        lambda content: content["text"].pop("context_length"),
    )
    for edit, length in zip(edits, (33, 77), strict=True):
        change_json(tmp_path / "copy" / "towers.json", edit)
        with pytest.raises(UserError, match=rf"^run: .*text.* takes 32 tokens .*, not {length}"):
            sogclr.load(tmp_path / "copy")


def test_a_vocabulary_without_a_token_for_unknown_words_is_one_line(copied):
    change_json(copied / "text" / "tokenizer.json", lambda c: c["model"]["vocab"].pop("[UNK]"))
    change_json(copied / "text" / "tokenizer.json", lambda c: c.update(added_tokens=[]))
    with pytest.raises(UserError, match=r"the tokenizer .* could not be loaded") as error:
        sogclr.load(copied)
    assert "\n" not in error.value.args[0]


@pytest.mark.parametrize(
    "edit", [{"hidden_size": 15}, {"hidden_act": "none"}, {"pad_token_id": 99}]
)
def test_a_tower_that_cannot_be_built_is_one_line(tower, pairs, tmp_path, edit):
    change_json(tower / "config.json", lambda content: content.update(edit))
    settings = {"text_tower": str(tower), "image_size": 16, "epochs": 1, "device": "cpu"}
    with pytest.raises(UserError, match="--text-tower: ") as error:
        sogclr.align(pairs, tmp_path / "run", **settings)
    assert "\n" not in error.value.args[0]


def test_a_tokenizer_travels_to_other_processes(copied):
    tokenizer = sogclr.load(copied).tokenizer
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again(["a picture"]).tolist() == tokenizer(["a picture"]).tolist()
    assert again.context_length == tokenizer.context_length
