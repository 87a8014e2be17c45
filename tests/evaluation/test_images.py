"""An `ImageReport` contains the accuracy of each classifier on each kind of features."""

import pytest
import torch
from helpers.refusal import refused

import sogclr
from sogclr.data.open_images import open_images
from sogclr.evaluation.embed_images import embed_images
from sogclr.evaluation.knn import knn_accuracy
from sogclr.evaluation.linear import linear_accuracy
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


def test_a_protocol_that_was_not_requested_is_none(run, make_folder, capsys):
    report = sogclr.evaluate(run, make_folder(), protocol="knn")
    assert report.trained.knn is not None
    assert report.trained.linear is None
    assert "linear" not in capsys.readouterr().out.split("\n", 1)[1]
    assert "give knn, linear or both" in refused(
        capsys, "evaluate", run, make_folder(), "--protocol", "svm"
    )
