import copy
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.pair_fixtures import TINY
from torch import nn

import sogclr
from sogclr import UserError
from sogclr.common.options import TowerSettings
from sogclr.models.build_towers import build_towers, rebuild_towers, tokenizer_of
from sogclr.models.pair_encoder import PairEncoder
from sogclr.models.towers import (
    PairModel,
    PairSpec,
    Tower,
    regularize,
    weights_digest,
)

NOTHING = TowerSettings()
VISION = {
    "vit": TINY["vision_cfg"],
    "timm-linear": {
        "timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "linear",
        "image_size": 16,
    },
    "timm-mlp": {
        "timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "mlp",
        "timm_drop": 0.5, "image_size": 16,
    },
    "timm-bare": {
        "timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "none",
        "image_size": 16,
    },
}  # fmt: skip
TEXT = {
    "transformer": TINY["text_cfg"],
    "clip": {**TINY["text_cfg"], "pool_type": "argmax"},
    "siglip": {**TINY["text_cfg"], "no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
    "hf-mlp": {"hf_proj_type": "mlp", "hf_pooler_type": "mean_pooler", "context_length": 16},
    "hf-linear": {"hf_proj_type": "linear", "hf_pooler_type": "cls_pooler", "context_length": 16},
}


@pytest.fixture
def original(bert):
    """An open_clip tower in eval mode, and inputs of it."""
    from open_clip.model import _build_text_tower, _build_vision_tower

    def build(name, seed=0):
        torch.manual_seed(seed)
        if name in VISION:
            return _build_vision_tower(16, dict(VISION[name])).eval(), torch.randn(3, 3, 16, 16)
        config = dict(TEXT[name])
        if name.startswith("hf"):
            config |= {"hf_model_name": str(bert), "hf_model_pretrained": False}
        return _build_text_tower(16, config).eval(), torch.randint(1, 30, (3, 16))

    return build


@pytest.mark.parametrize("name", [*VISION, *TEXT])
@torch.no_grad()
def test_a_tower_is_open_clips_in_two_parts(original, name):
    whole, inputs = original(name)
    expected = whole(inputs)
    tower = Tower(copy.deepcopy(whole)).eval()
    features, projection = tower(inputs)
    assert torch.equal(projection, expected)
    assert torch.equal(tower.head(features), expected)
    if name != "timm-bare":
        assert features.shape != expected.shape or not torch.equal(features, expected)
        assert sum(p.numel() for p in tower.head.parameters()) > 0


@pytest.mark.parametrize("name", [*VISION, *TEXT])
@torch.no_grad()
def test_weights_go_to_open_clip_and_come_back(original, name):
    whole, inputs = original(name)
    tower = Tower(copy.deepcopy(whole)).eval()
    state = tower.open_clip_state()
    assert state.keys() == whole.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in whole.state_dict().items())

    other = Tower(original(name, seed=1)[0]).eval()
    assert not torch.equal(other(inputs)[1], tower(inputs)[1])
    other.load_open_clip_state(state)
    assert torch.equal(other(inputs)[1], tower(inputs)[1])


@pytest.mark.parametrize("name", ["timm-mlp", "hf-mlp"])
@torch.no_grad()
def test_dropout_in_a_head_leaves_weights_and_evaluation_alone(original, name):
    tower = Tower(original(name)[0]).eval()
    features, before = tower(original(name)[1])
    names = list(tower.state_dict())
    regularize(tower.head, 0.4)
    assert list(tower.state_dict()) == names
    assert torch.equal(tower.head(features), before)
    tower.head.train()
    passes = torch.stack([tower.head(features) for _ in range(2000)])
    assert not torch.equal(passes[0], passes[1])
    # Dropout keeps the mean of what the last, linear layer sees, hence that of its outputs.
    spread = passes.std(dim=0) / len(passes) ** 0.5
    assert ((passes.mean(dim=0) - before).abs() < 6 * spread).all()
    rates = {m.p for m in tower.head.modules() if isinstance(m, nn.Dropout)}
    assert rates - {0.0} == {0.4}  # instead of what open_clip put there


def test_without_dropout_a_head_is_deterministic_in_training(original):
    tower = Tower(original("timm-mlp")[0])
    regularize(tower.head, 0.0)
    features = torch.randn(3, tower.body.trunk.num_features)
    tower.head.train()
    assert torch.equal(tower.head(features), tower.head(features))


def test_digests_tell_weights_and_structures_apart():
    linear = nn.Linear(3, 2)
    digest = weights_digest(linear)
    assert weights_digest(copy.deepcopy(linear)) == digest
    with torch.no_grad():
        linear.weight[1, 2] += 1e-6
    assert weights_digest(linear) != digest
    same_weights = [nn.Sequential(nn.Linear(2, 2), act) for act in (nn.ReLU(), nn.GELU())]
    same_weights[1].load_state_dict(same_weights[0].state_dict())
    assert weights_digest(same_weights[0]) != weights_digest(same_weights[1])
    half = nn.Linear(2, 2).to(torch.bfloat16)
    assert weights_digest(half) != weights_digest(half.float())


@pytest.mark.parametrize("frozen", [("image",), ("text",), ("image", "text")])
@torch.no_grad()
def test_a_frozen_tower_fed_features_is_the_whole_tower(original, frozen):
    towers = {"image": Tower(original("timm-mlp")[0]), "text": Tower(original("hf-mlp")[0])}
    inputs = {"image": original("timm-mlp")[1], "text": original("hf-mlp")[1]}
    whole = PairModel(towers, ("image", "text")).eval()
    model = PairModel(towers, ("image", "text"), frozen).eval()
    fed = {k: towers[k].body(x) if k in frozen else x for k, x in inputs.items()}
    found = model(fed["image"], fed["text"])
    for one, other in zip(found, whole(*inputs.values()), strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
    trained = {id(p) for p in model.parameters()}
    for kind, tower in towers.items():
        assert {id(p) for p in tower.head.parameters()} <= trained
        assert all((id(p) in trained) == (kind not in frozen) for p in tower.body.parameters())


@torch.no_grad()
def test_two_texts_share_one_tower(original):
    tower = Tower(original("transformer")[0])
    model = PairModel({"text": tower}, ("text", "text"))
    tokens = original("transformer")[1]
    a, b = model(tokens, tokens)
    assert torch.equal(a[1], b[1])
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in tower.parameters())


def _agrees_with_open_clip(encoder, texts):
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    model = encoder.to_open_clip()
    spec = encoder.spec
    images = torch.randn(4, 3, spec.image_size, spec.image_size)
    own = "hf_tokenizer_name" in spec.text
    tokenizer = HFTokenizer(spec.text["hf_tokenizer_name"]) if own else SimpleTokenizer()
    tokens = tokenizer(texts, context_length=spec.text["context_length"])
    with torch.no_grad():
        for ours, theirs in (
            (encoder.encode_image(images), model.encode_image(images, normalize=True)),
            (encoder.encode_text(texts), model.encode_text(tokens, normalize=True)),
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
            assert ours.std(dim=0).max() > 1e-4
    assert not model.training
    return model


TEXTS = ["a red picture", "a very blue picture 7", "in the green"]


def test_a_trained_model_goes_back_to_open_clip(trained):
    encoder = sogclr.load(trained)
    model = _agrees_with_open_clip(encoder, TEXTS)
    assert model.logit_scale.exp().item() == pytest.approx(1 / 0.05, rel=1e-5)


def test_joined_towers_go_to_open_clip_without_the_folder_they_came_from(joined, bert, tmp_path):
    shutil.move(bert, tmp_path / "away")
    try:
        _agrees_with_open_clip(sogclr.load(joined), TEXTS)
    finally:
        shutil.move(tmp_path / "away", bert)


def test_a_model_with_biases_and_its_own_tokenizer_is_trained_and_goes_back(
    pairs, make_config, tmp_path
):
    """What open_clip's SigLIP models have: biases in the projection, another tokenizer."""
    config = make_config(text_cfg={"no_causal_mask": True, "proj_bias": True, "pool_type": "last"})
    sogclr.align(
        pairs, tmp_path / "run", model=str(config), method="siglip", epochs=1, batch_size=8,
        device="cpu",
    )  # fmt: skip
    encoder = sogclr.load(tmp_path / "run")
    model = _agrees_with_open_clip(encoder, TEXTS)
    assert model.logit_bias.item() == pytest.approx(encoder.bias, rel=1e-6)
    assert encoder.bias < -9


def test_texts_alone_and_own_towers_are_no_model_of_open_clip(on_texts):
    encoder = sogclr.load(on_texts)
    with pytest.raises(UserError, match="no image tower"):
        encoder.to_open_clip()
    with pytest.raises(UserError, match="was trained on text and text: no images"):
        encoder.encode_image(torch.zeros(1, 3, 16, 16))


def test_towers_are_rebuilt_from_their_description_without_a_network(
    bert, resnet_weights, tmp_path
):
    request = replace(
        NOTHING, image_tower="test_resnet", image_weights=str(resnet_weights), text_tower=str(bert),
        image_size=32,
    )  # fmt: skip
    spec, towers = build_towers(request, ("image", "text"), ("image",), 64)
    assert spec == PairSpec.from_dict(spec.as_dict())
    # As where the weights were fetched: rebuilding must not fetch them again.
    published = replace(spec, vision={**spec.vision, "timm_model_pretrained": True})
    again = rebuild_towers(published, bert, None)
    for kind, tower in towers.items():
        again[kind].load_state_dict(tower.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again["image"].eval()(images)[1], towers["image"].eval()(images)[1])


def test_joined_towers_bring_their_weights(bert, resnet_weights):
    from transformers import AutoModel

    request = replace(
        NOTHING, image_tower="test_resnet", image_weights=str(resnet_weights), text_tower=str(bert),
        width=10,
    )  # fmt: skip
    spec, towers = build_towers(request, ("image", "text"), (), 64)
    stored = torch.load(resnet_weights, weights_only=True)
    trunk = towers["image"].body.trunk.state_dict()
    assert all(torch.equal(trunk[key], value) for key, value in stored.items())
    theirs = AutoModel.from_pretrained(bert, add_pooling_layer=False).state_dict()
    ours = towers["text"].body.transformer.state_dict()
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())
    assert spec.width == 10
    assert spec.image_size == 160  # timm's, of this name


@pytest.mark.parametrize(
    ("changes", "trained"),
    [
        ({}, False), ({"model": "ViT-B-32"}, False),
        ({"model": "ViT-B-32", "pretrained": "openai"}, True), ({"model": "hf-hub:a/b"}, True),
        ({"image_tower": "resnet50"}, True), ({"text_tower": "bert"}, True),
    ],
)  # fmt: skip
def test_towers_with_weights_are_known_as_such(changes, trained):
    assert replace(NOTHING, **changes).starts_trained() == trained


def test_a_folder_of_open_clip_is_a_trained_model(tmp_path, bert, make_config):
    """As open_clip saves one: configuration, weights and tokenizer."""
    import json

    import open_clip
    from open_clip.tokenizer import HFTokenizer

    config = make_config(text_cfg={"hf_tokenizer_name": "nobody/nothing"})
    open_clip.add_model_config(config)
    theirs = open_clip.create_model(config.stem, force_custom_text=True).eval()
    folder = tmp_path / "folder"
    folder.mkdir()
    torch.save(theirs.state_dict(), folder / "open_clip_pytorch_model.bin")
    half = [0.5, 0.5, 0.5]
    stored = {
        "model_cfg": json.loads(config.read_text()),
        "preprocess_cfg": {"mean": half, "std": half},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(stored))
    HFTokenizer(str(bert)).save_pretrained(str(folder))

    request = replace(NOTHING, model=str(folder))
    assert request.starts_trained()
    spec, towers = build_towers(request, ("image", "text"), (), 64)
    assert spec.mean == spec.std == (0.5, 0.5, 0.5)
    images, tokens = torch.randn(2, 3, 16, 16), tokenizer_of(spec, towers)(TEXTS)
    assert len(set(map(tuple, tokens.tolist()))) == 3
    with torch.no_grad():
        assert torch.equal(towers["image"].eval()(images)[1], theirs.encode_image(images))
        assert torch.equal(towers["text"].eval()(tokens)[1], theirs.encode_text(tokens))


def test_an_encoder_takes_pictures_and_sentences(trained, pairs):
    from PIL import Image

    encoder = sogclr.load(trained)
    assert isinstance(encoder, PairEncoder)
    assert not encoder.training
    pictures = [Image.open(pairs.parent / "img" / f"{i:02d}.png") for i in range(3)]
    pixels = torch.stack([encoder.preprocess(picture) for picture in pictures])
    assert torch.equal(encoder.encode_image(pictures), encoder.encode_image(pixels))
    for vectors in (encoder.encode_image(pictures), encoder.encode_text(TEXTS)):
        assert vectors.shape == (3, 16)
        np.testing.assert_allclose(vectors.norm(dim=1), 1, rtol=1e-5)
    white = encoder.preprocess(Image.new("L", (40, 20), 255))
    expected = (1 - torch.tensor(encoder.spec.mean)) / torch.tensor(encoder.spec.std)
    torch.testing.assert_close(white, expected[:, None, None].expand_as(white))
