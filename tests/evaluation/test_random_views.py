"""Random views of images are found by features; F is that of the projector of the run."""

import pytest
import torch
from helpers.refusal import refused
from torch.nn.functional import normalize

import sogclr
from sogclr.common.options import Augmentation
from sogclr.data.open_images import open_images
from sogclr.evaluation.random_views import embed_random_views
from sogclr.evaluation.view_scores import view_recall
from sogclr.losses.objective import two_view_objective
from sogclr.models.encoders import build_encoder, build_projector
from sogclr.runs.load import load_encoder

SMALL = {"encoder": "small", "image_size": 8, "batch_size": 8, "epochs": 1, "device": "cpu"}
USUAL = Augmentation().resolved(8)
NOTHING = Augmentation(crop_min=1, flip=0, color=0, gray=0, blur=0)


@pytest.mark.parametrize(
    ("method", "norm"), [("sogclr", "batch"), ("moco", "batch"), ("sogclr", "group")]
)
def test_images_without_labels_by_the_projector_of_the_checkpoint(
    make_folder, tmp_path, method, norm
):
    run = tmp_path / "run"
    sogclr.pretrain(make_folder(), run, method=method, norm=norm, temperature=0.3, **SMALL)
    flat = make_folder("held", per_class=20, classes=("",), seed=1)
    assert open_images(flat).labels is None
    report = sogclr.evaluate(run, flat, protocol="views", device="cpu")
    assert report.trained.knn is None
    encoder, spec = load_encoder(run)
    first, second = embed_random_views(encoder, open_images(flat), spec, USUAL, device="cpu")
    assert report.trained.views == view_recall(first, second)
    assert report.raw_pixels.views is not None
    assert report.untrained.views is not None
    state = torch.load(run / "checkpoint.pt")["model"]
    prefix = "query.projector." if "query.projector.0.weight" in state else "projector."
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    projector = build_projector(first.shape[1], norm=norm).eval()
    projector.load_state_dict(own)
    projections = torch.stack([projector(first), projector(second)], dim=1).detach().double()
    scores = report.projections
    assert scores.recall == view_recall(*projections.float().unbind(1))
    for version, value in (("v1", scores.objective), ("v2", scores.objective2)):
        exact = float(two_view_objective(normalize(projections, dim=-1), 0.3, version=version))
        assert value == pytest.approx(exact, abs=1e-5)


def test_a_run_without_a_checkpoint_says_what_is_left_out(make_folder, tmp_path, capsys):
    sogclr.pretrain(make_folder(), tmp_path / "run", **SMALL)
    (tmp_path / "run" / "checkpoint.pt").unlink()
    report = sogclr.evaluate(tmp_path / "run", make_folder(), protocol=["knn", "views"])
    assert report.projections is None
    assert report.trained.views is not None
    assert report.trained.knn is not None
    shown = capsys.readouterr()
    assert "no checkpoint, which holds the projector: F and F2 are left out" in shown.err
    assert "F2" not in shown.out


def test_an_image_is_embedded_alone_and_equally_for_every_run(make_folder):
    """Batch statistics play no part, nor does the seed of a run."""
    source = open_images(make_folder(per_class=10))
    encoder, spec = build_encoder("small", 8)
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in encoder.modules())
    encoder.eval()
    whole = embed_random_views(encoder, source, spec, USUAL, device="cpu")
    parts = embed_random_views(encoder, source, spec, USUAL, device="cpu", batch_size=3)
    assert not torch.allclose(*whole)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)


def test_views_without_a_change_are_equal(make_folder):
    source = open_images(make_folder(per_class=10, size=(9, 9)))  # a square is cropped whole
    _, spec = build_encoder("small", 8)
    first, second = embed_random_views(None, source, spec, NOTHING, device="cpu")
    assert first.shape == (20, 3 * 8 * 8)
    torch.testing.assert_close(first, second)
    assert view_recall(first, second) == 1.0


def test_bad_input_is_one_line(make_folder, tmp_path, capsys):
    sogclr.pretrain(make_folder(), tmp_path / "run", **SMALL)
    evaluate = ["evaluate", tmp_path / "run"]
    flat = make_folder("flat", classes=("",))
    asked = "--protocol", "knn"  # without it, views alone are measured
    assert "--protocol views, which needs none" in refused(capsys, *evaluate, flat, *asked)
    assert "--protocol views" in refused(capsys, *evaluate, flat, "--protocol", "knn,views")
    one = make_folder("one", per_class=1, classes=("",))
    assert "two or more" in refused(capsys, *evaluate, one, "--protocol", "views")
    assert "or views" in refused(capsys, *evaluate, flat, "--protocol", "view")
    checkpoint = torch.load(tmp_path / "run" / "checkpoint.pt")
    checkpoint["model"] = {k: v for k, v in checkpoint["model"].items() if "projector.3" not in k}
    torch.save(checkpoint, tmp_path / "run" / "checkpoint.pt")
    (tmp_path / "run" / "digests.json").unlink()
    said = refused(capsys, *evaluate, flat, "--protocol", "views")
    assert "does not fit" in said
    assert "3.weight" in said
