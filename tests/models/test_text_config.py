"""The stored configuration of a text tower has the options that towers are built of, no others."""

import json
import shutil

import pytest
import torch

pytest.importorskip("open_clip")

import transformers
from open_clip.hf_model import HFTextEncoder

import sogclr
from sogclr import UserError
from sogclr.models.text_config import KINDS, keep_known_options, require_known_options

SIZES = {"vocab_size": 35, "pad_token_id": 0}
BERT = {
    **SIZES, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 16, "max_position_embeddings": 40,
}  # fmt: skip
T5 = {**SIZES, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
M2M = {
    **SIZES, "d_model": 16, "max_position_embeddings": 40,
    **{f"{side}_{name}": value for side in ("encoder", "decoder")
       for name, value in (("layers", 1), ("ffn_dim", 16), ("attention_heads", 2))},
}  # fmt: skip
SMALL = {"bert": BERT, "roberta": BERT, "xlm-roberta": BERT, "mt5": T5, "m2m_100": M2M}


@pytest.fixture
def make_tower(bert, tmp_path):
    """A folder with a small text tower of a kind, whose configuration has other entries too."""

    def make(kind):
        folder = tmp_path / kind
        shutil.copytree(bert, folder)
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(kind, **SMALL[kind])
        transformers.AutoModel.from_config(config).save_pretrained(folder)
        change(folder / "config.json", finetuning_task="sst2", id2label={"0": "bad", "1": "good"})
        return folder

    return make


def change(path, **entries):
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def test_all_kinds_that_open_clip_builds_are_known():
    from open_clip.hf_configs import arch_dict

    assert set(KINDS) == set(arch_dict)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_run_writes_is_read_again(make_tower, pairs, tmp_path, kind):
    folder, out = make_tower(kind), tmp_path / "run"
    settings = {"text_tower": str(folder), "freeze": "text", "image_size": 16, "device": "cpu"}
    sogclr.align(pairs, out, epochs=1, batch_size=8, **settings)
    stored = json.loads((out / "text" / "config.json").read_text())
    assert "id2label" not in stored
    loaded = sogclr.load(out)
    tokens = loaded.tokenizer(["a red picture", "picture of a blue one"])
    published = HFTextEncoder(str(folder), 256, pooler_type="mean_pooler").eval()
    with torch.no_grad():
        expected = published.pooler(
            published.transformer(tokens, attention_mask=(tokens != 0).long()), (tokens != 0).long()
        )
        torch.testing.assert_close(loaded.towers["text"](tokens)[0], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_what_transformers_writes_by_default_is_kept(kind):
    found = transformers.AutoConfig.for_model(kind).to_diff_dict()
    assert keep_known_options(found, kind) == found
    require_known_options(found, kind)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"custom": 1}, "'custom' is no option"),
        ({"return_dict": False}, "'return_dict' is no option"),
        ({"pruned_heads": {"0": [0, 1]}}, "'pruned_heads' is no option"),
        ({"d_model": 16}, "'d_model' is no option"),
        ({"hidden_size": "16"}, "hidden_size"),
        ({"hidden_size": 1e300}, "hidden_size"),
        ({"vocab_size": 10**12}, "vocab_size must be at most 10,000,000"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers must be at most 1,000"),
        ({"pad_token_id": None}, "pad_token_id"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps must be"),
        ({"torch_dtype": "int8"}, "torch_dtype"),
        ({"model_type": ["bert"]}, "open_clip does not build"),
        ({"model_type": "gpt2"}, "is a gpt2, of a kind that open_clip does not build"),
    ],
    ids=str,
)
def test_a_run_with_other_options_is_refused(joined, pairs, tmp_path, entry, message):
    shutil.copytree(joined, tmp_path / "copy")
    change(tmp_path / "copy" / "text" / "config.json", **entry)
    for start in (
        lambda: sogclr.load(tmp_path / "copy"),
        lambda: sogclr.align(pairs, tmp_path / "copy", resume=True, device="cpu"),
    ):
        with pytest.raises(UserError, match=rf"^run: .*config\.json.*{message}") as error:
            start()
        assert "\n" not in error.value.args[0]


@pytest.mark.parametrize("entry", [{"num_hidden_layers": 10**6}, {"pad_token_id": None}], ids=str)
def test_a_tower_with_impossible_options_is_refused_at_the_start(
    make_tower, pairs, tmp_path, entry
):
    folder = make_tower("bert")
    change(folder / "config.json", **entry)
    with pytest.raises(UserError, match="--text-tower: ") as error:
        sogclr.align(pairs, tmp_path / "run", text_tower=str(folder), device="cpu")
    assert "\n" not in error.value.args[0]
    assert not (tmp_path / "run" / "towers.json").exists()
