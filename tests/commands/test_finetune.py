"""`sogclr.finetune`: a classifier of a run, its accuracy, and how it is loaded."""

import json
import signal

import numpy as np
import pytest
import torch
from helpers.evaluations import read_evaluations
from helpers.interrupting import interrupt_classifier_after
from helpers.refusal import refused
from PIL import Image

import sogclr
from sogclr.data.choose_labels import hold_out
from sogclr.data.open_images import open_images
from sogclr.evaluation.embed_images import embed_images
from sogclr.evaluation.linear import linear_predict
from sogclr.runs.folder import Run
from sogclr.runs.load import load_encoder

CLASSES = ("blue", "red", "green")
SHORT = {"epochs": 2, "batch_size": 5, "device": "cpu"}


@pytest.fixture
def photos(make_folder):
    return make_folder(per_class=10, classes=CLASSES)


@pytest.fixture
def run(photos, tmp_path):
    sogclr.pretrain(photos, tmp_path / "run", encoder="small", image_size=8, epochs=1, device="cpu")
    return tmp_path / "run"


def weights(folder):
    model = sogclr.load(folder)
    return {name: value.clone() for name, value in model.state_dict().items()}


def losses(folder):
    return [json.loads(line)["loss"] for line in Run(folder).metrics.read_text().splitlines()]


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_classifier_is_tested_on_images_that_it_was_not_trained_on(run, photos):
    made = sogclr.finetune(run, photos, **SHORT)
    source = open_images(photos)
    kept, tested = hold_out(source.ids, source.labels, np.arange(30))
    assert (made.labels, made.tested.images) == (len(kept), len(tested)) == (24, 6)
    model = sogclr.load(made.folder)
    assert model.classes == source.classes
    found = model.classify([source.file(row) for row in tested])
    right = [
        name == source.classes[source.labels[row]]
        for (name, _), row in zip(found, tested, strict=True)
    ]
    assert made.tested.accuracy == np.mean(right)
    assert model.probabilities(source.file(0)).sum().item() == pytest.approx(1)
    assert not same(weights(run), weights(made.folder))
    for folder in (run, made.folder):
        (entry,) = read_evaluations(Run(folder))
        assert entry["accuracy"] == made.tested.accuracy
        assert entry["standard_error"] == made.tested.standard_error
        assert (entry["labels"], entry["images"]) == (24, 6)


def test_the_head_alone_is_the_linear_probe_and_leaves_the_encoder(run, photos, make_folder):
    test = make_folder("held", per_class=7, classes=CLASSES, seed=1)
    made = sogclr.finetune(run, photos, test=test, only_head=True, device="cpu")
    encoder, spec = load_encoder(run)
    features = [
        embed_images(encoder, open_images(each), spec, quiet=True).vectors
        for each in (photos, test)
    ]
    labels = [open_images(each).labels for each in (photos, test)]
    predicted = linear_predict(features[0], labels[0], features[1])
    assert made.tested.accuracy == (predicted == labels[1]).mean()
    assert same(load_encoder(made.folder)[0].state_dict(), encoder.state_dict())


def test_with_more_steps_the_classes_are_learned(run, photos, tmp_path):
    out = tmp_path / "classes"
    made = sogclr.finetune(run, photos, out=out, epochs=15, batch_size=8, device="cpu")
    assert made.tested.accuracy > 0.8
    assert len(losses(out)) == 15
    assert losses(out)[-1] < losses(out)[0]
    again = sogclr.evaluate(out, photos)
    assert again.images == 30
    assert again.accuracy > 0.8


def test_the_initial_encoder_is_another_start(run, photos, tmp_path):
    options = {"only_head": True, "device": "cpu"}
    made = [
        sogclr.finetune(run, photos, out=tmp_path / str(initial), initial=initial, **options)
        for initial in (False, True)
    ]
    first, second = (load_encoder(each.folder)[0].state_dict() for each in made)
    assert not same(first, second)
    assert same(second, load_encoder(run, initial=True)[0].state_dict())


@pytest.mark.parametrize("step", [3, 5])  # in an epoch of five steps, and at its end
def test_resumed_is_uninterrupted(run, photos, tmp_path, monkeypatch, step):
    whole = sogclr.finetune(run, photos, out=tmp_path / "whole", **SHORT)
    part = tmp_path / "part"
    interrupt_classifier_after(monkeypatch, step, number=signal.SIGTERM)
    stopped = sogclr.finetune(run, photos, out=part, **SHORT)
    assert not stopped.complete
    assert stopped.tested is None
    with pytest.raises(sogclr.UserError, match=r"not complete; go on with sogclr finetune"):
        sogclr.load(part)
    resumed = sogclr.finetune(run, photos, out=part, resume=True, device="cpu")
    assert resumed == type(whole)(part, True, whole.labels, whole.tested)
    assert same(weights(part), weights(whole.folder))
    assert losses(part) == pytest.approx(losses(whole.folder))


def test_a_kill_loses_no_finished_epoch(run, photos, tmp_path, monkeypatch):
    """A second signal ends the process at once, as a kill does."""
    interrupt_classifier_after(monkeypatch, 7, times=2)
    with pytest.raises(KeyboardInterrupt):
        sogclr.finetune(run, photos, out=tmp_path / "part", **SHORT)
    assert Run(tmp_path / "part").read_checkpoint()["step"] == 5


def test_what_cannot_work_is_one_line(run, photos, make_folder, tmp_path, capsys):
    start = ("finetune", run)
    pixels = np.zeros((9, 8, 8, 3), dtype=np.uint8)
    for labels, said in (([0] * 9, "are of one class"), (range(9), "no class has two images")):
        with pytest.raises(sogclr.UserError, match=said):
            sogclr.finetune(run, (pixels, np.array(labels)))
    assert "no labels" in refused(capsys, *start, photos / "red")
    other = make_folder("other", classes=("blue", "pink"))
    assert "its classes differ" in refused(capsys, *start, photos, "--test", other)
    made = sogclr.finetune(run, photos, only_head=True, device="cpu")
    assert "holds a run already" in refused(capsys, *start, photos)
    assert "is complete" in refused(capsys, *start, photos, "--only-head", "--resume")
    line = refused(capsys, "finetune", made.folder, photos, "--out", tmp_path / "x")
    assert "is a classifier of sogclr finetune; give a run of sogclr pretrain" in line
    assert "does not know the classes pink" in refused(capsys, "evaluate", made.folder, other)
    assert "is a classifier" in refused(
        capsys, "evaluate", made.folder, photos, "--protocol", "knn"
    )
    assert not (tmp_path / "x").exists()


def test_images_that_have_changed_are_refused(run, photos, tmp_path, monkeypatch, capsys):
    out = tmp_path / "part"
    interrupt_classifier_after(monkeypatch, 3)
    sogclr.finetune(run, photos, out=out, **SHORT)
    for file in (photos / "red").iterdir():
        Image.new("RGB", (30, 40)).save(file)
    line = refused(capsys, "finetune", run, photos, "--out", out, "--resume")
    assert "data: the labelled images are not those" in line


def test_an_encoder_of_ones_own_is_passed_again(photos, tmp_path):
    def build():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 16))

    run = tmp_path / "run"
    sogclr.pretrain(photos, run, encoder=build(), image_size=8, epochs=1, device="cpu")
    made = sogclr.finetune(run, photos, encoder=build(), **SHORT)
    model = sogclr.load(made.folder, encoder=build())
    assert model.head.weight.shape == (3, 16)


def test_other_commands_take_its_encoder(run, photos, tmp_path):
    made = sogclr.finetune(run, photos, **SHORT)
    found = sogclr.embed(made.folder, photos, out=tmp_path / "x.npz")
    first = photos / found.names[0]
    features = sogclr.load(made.folder).encode_image(first)[0]
    assert np.allclose(found.vectors[0], features.numpy(), atol=1e-5)
    assert sogclr.search(made.folder, str(first), top=1)[0].name == found.names[0]
    with pytest.raises(sogclr.UserError, match=r"give a run of sogclr pretrain"):
        sogclr.report(made.folder, photos)
