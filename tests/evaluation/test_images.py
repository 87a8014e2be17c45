"""An `ImageReport` contains the accuracy of each classifier on each kind of features."""

import pytest
import torch
from helpers.evaluations import read_evaluations
from helpers.refusal import refused

import sogclr
from sogclr.data.open_images import open_images
from sogclr.evaluation.embed_images import embed_images
from sogclr.evaluation.knn import knn_accuracy
from sogclr.evaluation.linear import linear_accuracy
from sogclr.runs.folder import Run
from sogclr.runs.load import load_encoder

SMALL = {"encoder": "small", "image_size": 8, "batch_size": 8, "epochs": 1, "device": "cpu"}


@pytest.fixture
def run(make_folder, tmp_path):
    sogclr.pretrain(make_folder(), tmp_path / "run", **SMALL)
    return tmp_path / "run"


@pytest.mark.parametrize("tested", [False, True])
def test_each_kind_of_features_is_classified_by_each_protocol(run, make_folder, tested):
    sources = [open_images(make_folder())]
    test = make_folder("held", seed=1) if tested else None
    if tested:
        sources.append(open_images(test))
    report = sogclr.evaluate(run, make_folder(), test=test)
    assert isinstance(report, sogclr.ImageReport)
    _, spec = load_encoder(run)
    for name, encoder in (
        ("raw_pixels", None),
        ("untrained", load_encoder(run, initial=True)[0]),
        ("trained", load_encoder(run)[0]),
    ):
        parts = []
        for source in sources:
            parts += [embed_images(encoder, source, spec, quiet=True).vectors, source.labels]
        accuracy = getattr(report, name)
        assert accuracy.knn == knn_accuracy(*map(torch.from_numpy, parts))
        assert accuracy.linear == linear_accuracy(*parts)
    labels = parts[-1]
    assert report.images == len(labels) == report.compared
    assert report.majority == pytest.approx(max((labels == c).mean() for c in set(labels)))
    weights = {name: (labels == c).mean() for c, name in enumerate(sources[-1].classes)}
    for protocol in ("knn", "linear"):  # the accuracy is the mean over classes, by their shares
        mean = sum(getattr(report.per_class[name], protocol) * w for name, w in weights.items())
        assert mean == pytest.approx(getattr(report.trained, protocol))


def test_images_without_labels_are_measured_by_their_views(run, make_folder):
    photos = make_folder("unlabelled", classes=("one",))
    report = sogclr.evaluate(run, photos / "one")
    assert report.trained.views is not None
    assert report.trained.knn is report.trained.linear is None
    (entry,) = read_evaluations(Run(run))
    assert entry["data"] == str(photos / "one")


def test_a_result_is_kept_in_the_run(run, make_folder, capsys):
    photos = make_folder()
    report = sogclr.evaluate(run, photos, test=make_folder("held", seed=1), per_class=True)
    (entry,) = read_evaluations(Run(run))
    assert entry["data"] == str(photos)
    assert entry["test"].endswith("held")
    assert entry["trained"]["knn"] == report.trained.knn
    assert entry["per_class"].keys() == report.per_class.keys() == {"blue", "red"}
    table = capsys.readouterr().out
    assert "blue" in table
    assert "always the largest class" in table


def test_a_protocol_that_was_not_requested_is_none(run, make_folder, capsys):
    report = sogclr.evaluate(run, make_folder(), protocol="knn")
    assert report.trained.knn is not None
    assert report.trained.linear is None
    assert report.per_class["red"].linear is None
    table = capsys.readouterr().out.split("knn, linear:")[0]
    assert "linear" not in table
    assert "give knn, linear or both" in refused(
        capsys, "evaluate", run, make_folder(), "--protocol", "svm"
    )
