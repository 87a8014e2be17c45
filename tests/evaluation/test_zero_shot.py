"""Zero-shot classification chooses the class with the nearest mean sentence."""

import numpy as np
import pytest
import torch
from helpers.pictures import encode_pictures

import sogclr
from sogclr.data.open_images import open_images
from sogclr.evaluation.zero_shot import TEMPLATES


@pytest.mark.parametrize("templates", [None, "a {} picture|{}"])
def test_zero_shot_chooses_the_class_with_the_nearest_mean_sentence(
    trained, make_folder, capsys, templates
):
    photos = make_folder(classes=("blue", "dark_red", "green"))
    model, source = sogclr.load(trained), open_images(photos)
    chosen = TEMPLATES if templates is None else templates.split("|")
    prototypes = []
    for name in ("blue", "dark red", "green"):
        total = sum(model.encode_text([template.format(name)])[0] for template in chosen)
        prototypes.append(total / total.norm())
    images = encode_pictures(model, photos, source.names)
    right = {"blue": 0, "dark red": 0, "green": 0}
    for image, label in zip(images, source.labels, strict=True):
        right[list(right)[label]] += (
            int(torch.stack([image @ p for p in prototypes]).argmax()) == label
        )
    report = sogclr.evaluate(trained, photos, templates=templates)
    assert report.zero_shot.accuracy == pytest.approx(sum(right.values()) / 24)
    assert report.zero_shot.per_class == pytest.approx({k: v / 8 for k, v in right.items()})
    assert report.zero_shot.majority == pytest.approx(8 / 24)
    assert report.zero_shot.top5 is None  # of three classes
    assert report.zero_shot.classes == ["blue", "dark red", "green"]
    assert report.retrieval is None
    assert report.sts is None
    assert "24 images in 3 classes" in capsys.readouterr().out


def test_colours_of_the_captions_are_classified(trained, make_folder):
    photos = make_folder(classes=("red", "green", "blue"), size=(24, 20), seed=1)
    report = sogclr.evaluate(trained, photos, templates="a {} picture")
    assert report.zero_shot.accuracy > 0.5  # chance 1/3


def test_labelled_images_in_memory_are_classified_too(trained, make_folder):
    source = open_images(make_folder(classes=("blue", "green"), size=(20, 20)))
    images = np.stack([np.asarray(source.image(row)) for row in range(len(source))])
    report = sogclr.evaluate(trained, (images, source.labels), templates="{}")
    names = sogclr.load(trained).encode_text(["0", "1"])
    found = sogclr.load(trained).encode_image([source.image(row) for row in range(len(source))])
    right = (found @ names.T).argmax(dim=1).numpy() == source.labels
    assert report.zero_shot.accuracy == pytest.approx(right.mean())


def test_top5_counts_the_nearest_five_classes(trained, make_folder):
    # The vocabulary has three colours; unknown words would all be alike.
    names = ("blue", "green", "red", "red_green", "blue_red", "green_blue", "red_red_blue")
    photos = make_folder(classes=names)
    source, model = open_images(photos), sogclr.load(trained)
    names = [name.replace("_", " ") for name in source.classes]
    prototypes = model.encode_text([f"a {name} picture" for name in names])
    images = model.encode_image([source.image(row) for row in range(len(source))])
    found = 0
    for image, label in zip(images, source.labels, strict=True):
        nearer = sum(bool(image @ p > image @ prototypes[label]) for p in prototypes)
        found += nearer < 5
    report = sogclr.evaluate(trained, photos, templates="a {} picture").zero_shot
    assert report.top5 == pytest.approx(found / len(source))
    assert report.accuracy <= report.top5


def test_zero_shot_leaves_unreadable_images_out(trained, make_folder, capsys):
    photos = make_folder(size=(40, 40))
    victim = photos / "blue" / "003.png"
    victim.write_bytes(victim.read_bytes()[:900])
    zero_shot = sogclr.evaluate(trained, photos).zero_shot
    assert 0 <= zero_shot.accuracy <= 1
    assert zero_shot.images == 15
    captured = capsys.readouterr()
    assert "15 images in 2 classes" in captured.out
    assert "skipped blue/003.png" in captured.err
