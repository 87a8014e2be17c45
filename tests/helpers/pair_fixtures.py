"""Pairs as small as they can be, towers likewise, and one trained run of each kind."""

import json
import logging
from hashlib import sha256
from pathlib import Path

import pytest
import torch

import sogclr

from .small_tables import COLOURS, write_pairs, write_table

TINY = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8,
    },
    "text_cfg": {
        "context_length": 16, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1,
        "pool_type": "eos", "eos_id": 3,
    },
}  # fmt: skip
WORDS = (
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "an", "picture", "of", "the", "in", "very",
    *COLOURS, *"0123456789", *(f"##{digit}" for digit in "0123456789"),
)  # fmt: skip


@pytest.fixture(scope="session")
def bert(tmp_path_factory) -> Path:
    """A folder with a Hugging Face text tower."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    (folder / "words.txt").write_text("\n".join(WORDS))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    BertTokenizerFast(vocab=str(folder / "words.txt")).save_pretrained(folder)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, bert) -> Path:
    """The configuration of an open_clip model: two transformers, and a tokenizer of few words."""
    path = tmp_path_factory.mktemp("model") / "tiny.json"
    text = {**TINY["text_cfg"], "hf_tokenizer_name": str(bert)}
    path.write_text(json.dumps({**TINY, "text_cfg": text}))
    return path


@pytest.fixture
def make_config(tiny, tmp_path):
    """Such a configuration with some values changed, each time under a name of its own."""

    def make(**changes) -> Path:
        config = json.loads(tiny.read_text())
        for name, value in changes.items():
            config[name] = {**config[name], **value} if isinstance(value, dict) else value
        content = json.dumps(config)
        path = tmp_path / f"tiny-{sha256(content.encode()).hexdigest()[:8]}.json"
        path.write_text(content)
        return path

    return make


@pytest.fixture(scope="session")
def resnet_weights(tmp_path_factory) -> Path:
    """Weights of timm's test_resnet."""
    import timm

    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "resnet.pt"
    torch.save(timm.create_model("test_resnet", num_classes=0).state_dict(), path)
    return path


@pytest.fixture
def make_pairs(tmp_path):
    """A table of pairs that a test may change."""
    return lambda name="pairs", **settings: write_pairs(tmp_path / name, **settings)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory) -> Path:
    """A table of pairs that nobody changes."""
    return write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="session")
def sentences(tmp_path_factory) -> Path:
    """A table of sentence pairs, with a score of how near they are."""
    rows = [
        (f"a {COLOURS[i % 3]} picture {i}", f"picture {i} in {COLOURS[(i + i // 8) % 3]}", i // 8)
        for i in range(24)
    ]
    folder = tmp_path_factory.mktemp("sentences")
    return write_table(folder / "train.csv", rows, ("sentence1", "sentence2", "score"))


@pytest.fixture(scope="session")
def _session_cache(tmp_path_factory):
    """As `_own_cache`, for what is made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOGCLR_CACHE", str(tmp_path_factory.mktemp("session-cache")))
        yield patch


@pytest.fixture
def fast(tiny):
    """Settings of a run of a second."""
    return {"model": str(tiny), "batch_size": 8, "epochs": 2, "device": "cpu", "workers": 0}


@pytest.fixture(scope="session")
def trained(pairs, tiny, tmp_path_factory, _session_cache) -> Path:
    """A run on images and captions, both towers trained."""
    out = tmp_path_factory.mktemp("runs") / "trained"
    settings = {"model": str(tiny), "batch_size": 8, "device": "cpu", "workers": 0}
    sogclr.align(pairs, out, epochs=20, learning_rate=3e-3, **settings)
    return out


@pytest.fixture(scope="session")
def joined(pairs, bert, resnet_weights, tmp_path_factory, _session_cache) -> Path:
    """A run on images and captions, a timm and a Hugging Face tower, both frozen."""
    out = tmp_path_factory.mktemp("runs") / "joined"
    sogclr.align(
        pairs, out, image_tower="test_resnet", image_weights=str(resnet_weights), image_size=32,
        text_tower=str(bert), width=24, freeze="image,text", batch_size=8, epochs=3, device="cpu",
    )  # fmt: skip
    return out


@pytest.fixture(scope="session")
def on_texts(sentences, tiny, tmp_path_factory, _session_cache) -> Path:
    """A run on two sentences, with one tower for both."""
    out = tmp_path_factory.mktemp("runs") / "texts"
    sogclr.align(sentences, out, model=str(tiny), batch_size=8, epochs=3, device="cpu")
    return out
