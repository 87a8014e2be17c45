"""Inputs of `encode_image` and `encode_text`: one, several or none; the rest is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

import sogclr
from sogclr import UserError
from sogclr.models.encoders import build_encoder
from sogclr.models.image_encoder import ImageEncoder


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.fixture(params=["images", "pairs"])
def model(request):
    if request.param == "images":
        torch.manual_seed(0)
        return ImageEncoder(*build_encoder("small", 16))
    return sogclr.load(request.getfixturevalue("trained"))


def test_one_image_is_a_sequence_of_one(model, picture):
    with Image.open(picture) as image:
        expected = model.encode_image([image])
        for given in (image, picture, str(picture), [picture], (str(picture),), iter([image])):
            assert torch.equal(model.encode_image(given), expected)
    assert torch.equal(model.encode_image(model.preprocess(picture)[None]), expected)
    assert len(model.encode_image([picture, picture])) == 2


def test_no_images_are_no_features(model, picture):
    width = model.encode_image(picture).shape[1]
    side = model.spec.image_size
    for given in ([], (), torch.empty(0, 3, side, side)):
        assert model.encode_image(given).shape == (0, width)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("no/such.png", "no/such.png cannot be read .no such file or directory"),
        ([None], "expected Pillow images or paths of image files, got NoneType"),
        ([b"bytes"], "got bytes"),
        (7, "expected a sequence of images, got int"),
        (torch.zeros(3, 16, 16), r"floats of shape \(n, 3, \d+, \d+\), got float32 of shape \(3, "),
        (torch.zeros(1, 16, 16, 3), r"of shape \(1, 16, 16, 3\)"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "got uint8"),
        (np.zeros((2, 16, 16, 3), np.uint8), "got ndarray"),
    ],
)
def test_what_is_no_image_is_refused(model, given, message):
    with pytest.raises(UserError, match=message) as raised:
        model.encode_image(given)
    assert "\n" not in raised.value.args[0]


def test_a_damaged_image_is_refused_by_name(model, picture):
    picture.write_bytes(picture.read_bytes()[:300])
    with pytest.raises(UserError, match=r"picture\.png cannot be read"):
        model.encode_image([picture])
    with Image.open(picture) as image, pytest.raises(UserError, match="image cannot be read"):
        model.encode_image(image)


def test_one_text_is_a_sequence_of_one(trained):
    model = sogclr.load(trained)
    expected = model.encode_text(["a red dog"])
    assert expected.shape[0] == 1
    for given in ("a red dog", ("a red dog",), iter(["a red dog"])):
        assert torch.equal(model.encode_text(given), expected)


@pytest.mark.parametrize("run", ["trained", "joined"])
def test_texts_may_be_none_or_empty(run, request):
    model = sogclr.load(request.getfixturevalue(run))
    width = model.encode_text("a").shape[1]
    assert model.encode_text([]).shape == (0, width)
    for text in ("", " ", "\n"):
        assert model.encode_text(text).shape == (1, width)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a dog", None], "texts: entry 1 is NoneType, expected a string"),
        ([b"a dog"], "entry 0 is bytes"),
        ([["a dog"]], "entry 0 is list"),
        (3, "expected a sequence of strings, got int"),
    ],
)
def test_what_is_no_text_is_refused(trained, given, message):
    with pytest.raises(UserError, match=message):
        sogclr.load(trained).encode_text(given)


def test_a_run_without_images_says_so(on_texts, picture):
    for given in (picture, [], [picture]):
        with pytest.raises(UserError, match="no images"):
            sogclr.load(on_texts).encode_image(given)
