"""`sogclr export`: what other programs load gives the vectors of the run."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from helpers.refusal import refused
from PIL import Image
from torch.nn.functional import cosine_similarity

import sogclr
from sogclr import UserError
from sogclr.models.exports import compare

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries that load the exports


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Photographs of several shapes; the first is stored lying on its side."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(8):
        small = Image.fromarray(rng.integers(0, 256, (5, 4, 3), dtype=np.uint8))
        image = small.resize((90 + 7 * number, 130 - 11 * number), Image.Resampling.BICUBIC)
        exif = image.getexif()
        exif[0x0112] = 6 if number == 0 else 1  # the orientation tag
        image.save(folder / f"{number}.jpg", exif=exif)
    return folder


@pytest.fixture(scope="module")
def on_photos(photos, tmp_path_factory) -> Path:
    """A run whose encoder is a plain one of timm."""
    out = tmp_path_factory.mktemp("runs") / "photos"
    sogclr.pretrain(
        photos, out, encoder="test_resnet", image_size=96, epochs=1, batch_size=4, device="cpu"
    )
    return out


@pytest.fixture(scope="module")
def on_digits(tmp_path_factory) -> Path:
    """A run with the small encoder, which timm does not have."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    sogclr.pretrain("digits", out, epochs=1, batch_size=512, device="cpu")
    return out


def follow(folder: Path, photo: Path | None = None) -> dict:
    """Run the code in the README of an export, in its folder, as a reader would."""
    text = (folder / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert "sogclr" not in code
    if photo is not None:
        (folder / "photo.jpg").write_bytes(photo.read_bytes())
    names: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(code, names)
    return names


@pytest.mark.parametrize("format", ["onnx", "torchscript"])
def test_instructions_give_the_vectors_of_photographs(format, on_photos, photos, tmp_path):
    folder = sogclr.export(on_photos, format=format, out=tmp_path / "new")
    names = follow(folder, photos / "0.jpg")
    paths = sorted(photos.glob("*.jpg"))
    model = sogclr.load(on_photos)
    expected = model.encode_image(paths)
    np.testing.assert_allclose(names["encode_images"](paths), expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(names["images"], expected[:1], rtol=0, atol=1e-4)
    described = json.loads((folder / "preprocessing.json").read_text())
    assert described["image_size"] == 96
    assert described["shorter_side"] == 110
    assert described["mean"] == list(model.spec.mean)


@pytest.mark.parametrize(
    ("format", "name"), [("onnx", "joined"), ("torchscript", "trained"), ("torchscript", "joined")]
)
def test_both_towers_give_the_vectors_of_the_run(format, name, request, photos, tmp_path):
    run = request.getfixturevalue(name)
    names = follow(sogclr.export(run, format=format, out=tmp_path / "new"), photos / "1.jpg")
    model = sogclr.load(run)
    texts = ["a red picture 3", "an", "the very green picture 12 of the blue, in the very red"]
    np.testing.assert_allclose(names["encode_texts"](texts), model.encode_text(texts), atol=1e-4)
    paths = sorted(photos.glob("*.jpg"))[:3]
    np.testing.assert_allclose(names["encode_images"](paths), model.encode_image(paths), atol=1e-4)


def test_a_run_on_texts_has_a_text_encoder_alone(on_texts, tmp_path):
    folder = sogclr.export(on_texts, format="torchscript", out=tmp_path / "new")
    assert {path.name for path in folder.iterdir()} == {"text.pt", "tokenizer.json", "README.md"}
    expected = sogclr.load(on_texts).encode_text(["a dog in the snow", "a red car"])
    np.testing.assert_allclose(follow(folder)["texts"], expected, atol=1e-4)


def test_timm_loads_encoder_and_preprocessing(on_photos, photos, tmp_path):
    folder = sogclr.export(on_photos, format="timm", out=tmp_path / "new")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    paths = sorted(photos.glob("*.jpg"))[1:]  # timm does not turn photographs upright
    with torch.no_grad():
        found = model(torch.stack([transform(Image.open(path)) for path in paths]))
    expected = sogclr.load(on_photos).encode_image(paths)
    # timm rounds the size of an image before it cuts out the centre.
    assert cosine_similarity(found, expected).min() > 0.999
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()


def test_transformers_loads_the_folder_of_timm(on_photos, photos, tmp_path):
    from transformers import AutoModel

    folder = sogclr.export(on_photos, format="timm", out=tmp_path / "new")
    model = sogclr.load(on_photos)
    image = model.preprocess(photos / "1.jpg")[None]
    with torch.no_grad():
        found = AutoModel.from_pretrained(folder)(image).pooler_output
    torch.testing.assert_close(found, model(image), rtol=0, atol=1e-4)


def test_timm_reads_the_weights_of_a_run(on_photos, photos):
    path = str(on_photos / "encoder.safetensors")
    encoder = timm.create_model("test_resnet", num_classes=0, checkpoint_path=path).eval()
    model = sogclr.load(on_photos)
    image = model.preprocess(photos / "1.jpg")[None]
    with torch.no_grad():
        assert torch.equal(encoder(image), model(image))


@pytest.mark.parametrize("name", ["joined", "trained"])
def test_open_clip_loads_both_towers(name, request, photos, tmp_path):
    import open_clip

    run = request.getfixturevalue(name)
    folder = sogclr.export(run, format="openclip", out=tmp_path / "new")
    clip, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model = sogclr.load(run)
    texts = ["a red picture 3", "the very green picture 12"]
    clip.eval()
    with torch.no_grad():
        found = clip.encode_text(tokenizer(texts), normalize=True)
        paths = sorted(photos.glob("*.jpg"))[1:4]
        images = torch.stack([preprocess(Image.open(path)) for path in paths])
        seen = clip.encode_image(images, normalize=True)
    torch.testing.assert_close(found, model.encode_text(texts), rtol=0, atol=1e-4)
    assert cosine_similarity(seen, model.encode_image(paths)).min() > 0.999
    assert clip.logit_scale.item() == pytest.approx(-model.log_temperature)


def test_sentence_transformers_loads_the_text_tower(joined, tmp_path):
    from sentence_transformers import SentenceTransformer

    folder = sogclr.export(joined, format="sentence-transformers", out=tmp_path / "new")
    texts = ["a red picture 3", "an", "the very green picture 12"]
    found = SentenceTransformer(str(folder), device="cpu").encode(texts)
    np.testing.assert_allclose(found, sogclr.load(joined).encode_text(texts), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "format", "reason", "works"),
    [
        ("on_digits", "timm", "the small encoder is no model of timm", "onnx, torchscript"),
        ("on_photos", "openclip", "no text tower", "onnx, torchscript, timm"),
        ("on_photos", "sentence-transformers", "no text tower", "onnx, torchscript, timm"),
        ("trained", "sentence-transformers", "is open_clip's", "onnx, torchscript, openclip"),
        ("trained", "timm", "has towers", "onnx, torchscript, openclip"),
        ("on_texts", "openclip", "no image tower", "onnx, torchscript"),
    ],
)
def test_a_format_without_such_a_model_names_those_that_work(
    name, format, reason, works, request, capsys, tmp_path
):
    run = request.getfixturevalue(name)
    line = refused(capsys, "export", run, "--format", format, "--out", tmp_path / "new")
    assert reason in line
    assert line.endswith(f"formats that work: {works}")
    assert not (tmp_path / "new").exists()


def test_other_vectors_are_refused_and_nothing_is_left(on_digits, tmp_path, monkeypatch):
    original = compare.Examples.encode.__func__

    def encode_otherwise(cls, *arguments):
        right = original(cls, *arguments)
        right.of_images[0, 0] += 2e-4 * right.of_images.abs().max()
        return right

    monkeypatch.setattr(compare.Examples, "encode", classmethod(encode_otherwise))
    with pytest.raises(UserError, match=r"differ from those of the run by 2.0e-04"):
        sogclr.export(on_digits, format="torchscript", out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_data_that_is_gone_is_made_up_and_said(on_photos, photos, tmp_path, capsys):
    settings = json.loads((on_photos / "settings.json").read_text())
    elsewhere = tmp_path / "run"
    elsewhere.mkdir()
    for name in ("encoder.safetensors", "encoder.json"):
        (elsewhere / name).write_bytes((on_photos / name).read_bytes())
    (elsewhere / "settings.json").write_text(json.dumps({**settings, "data": "/gone"}))
    sogclr.export(elsewhere, format="torchscript")
    assert "images to compare on are made up" in capsys.readouterr().err
    with pytest.raises(UserError, match="exists already"):
        sogclr.export(elsewhere, format="torchscript")
    sogclr.export(elsewhere, photos, format="torchscript", out=tmp_path / "named")
    told = capsys.readouterr().err
    assert "made up" not in told
    assert "8 images" in told


def test_a_missing_package_names_its_extra(on_digits, capsys, monkeypatch):
    from sogclr.models.exports import formats

    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    line = refused(capsys, "export", on_digits, "--format", "onnx")
    assert line.endswith("onnx, which is not installed: pip install 'sogclr[export]'")


def test_a_classifier_is_refused(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "settings.json").write_text('{"format": 1, "kind": "classifier"}')
    for words in (["export", run, "--format", "onnx"], ["push", run, "owner/name"]):
        line = refused(capsys, *words)
        assert "is a classifier of sogclr finetune" in line
        assert line.endswith("give the run that it started from")
