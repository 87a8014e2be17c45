"""An audit measures known errors, and writes a table, a sentence and a picture."""

import json
import math
from dataclasses import asdict, replace

import pytest
import torch
from helpers.refusal import refused
from PIL import Image

import sogclr
from sogclr import GlobalContrastiveLoss
from sogclr.auditing import measure
from sogclr.auditing.measure import audit_subject, measure_lag
from sogclr.auditing.measured import Audit, Measured
from sogclr.auditing.population import Population
from sogclr.auditing.subject import Subject, open_subject
from sogclr.commands.cli import main
from sogclr.data.open_images import open_images
from sogclr.losses.objective import two_view_objective
from sogclr.losses.objective_tiled import log_mean

from .test_population import TAU, make, whole

FAST = {"encoder": "small", "image_size": 8, "batch_size": 8, "device": "cpu"}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Use fewer visits: the tests are faster and the figures noisier."""
    monkeypatch.setattr(measure, "VISITS", 500)


@pytest.fixture
def photos(make_folder):
    return make_folder(per_class=16)


@pytest.fixture
def run(photos, tmp_path):
    sogclr.pretrain(photos, tmp_path / "run", epochs=3, **FAST)
    return tmp_path / "run"


def subject(
    population: Population, log_u: torch.Tensor, references: torch.Tensor | None = None
) -> Subject:
    """Make a subject with a table that contains these values of log u."""
    n = len(population)
    loss = GlobalContrastiveLoss(
        n, temperature=TAU, gamma_min=1e-3, dtype=torch.float64, scale="temperature"
    )
    loss.normalizer.log_u[:-1], loss.normalizer.visits[:-1] = log_u, 10**6
    return Subject("made", population, references, loss, 8, None)


def first_row(audit: Audit, estimator: str) -> Measured:
    return audit.curve(estimator)[0]


def test_a_thousand_samples_in_single_precision_are_brute_force() -> None:
    population = make(1, n=1_000, views=2)
    leaf = population.features[0].clone().requires_grad_()
    two_view_objective(leaf, TAU, "v2").backward()
    single = replace(population, features=population.features.float())
    found = whole(single, log_mean(single.log_normalizers(), dim=-1))[0].double()
    assert (found - leaf.grad).norm() < 1e-5 * leaf.grad.norm()


def test_an_exact_table_is_worth_more_than_any_batch() -> None:
    population = make(1, n=64)
    exact = log_mean(population.log_normalizers(), dim=-1)[0, :, 0]
    audit = audit_subject(subject(population, exact))
    table, batch = first_row(audit, "table at rest").v2, first_row(audit, "batch").v1
    assert batch.relative > 0.1
    assert table.relative < 0.2 * batch.relative
    assert audit.worth is None
    assert "a batch of more than 64 with SimCLR, of more than 64 with DCL" in audit.summary
    assert abs(audit.lag.mean) < 0.01
    json.dumps(asdict(audit), allow_nan=False)


def test_the_lag_of_a_table_is_measured() -> None:
    population = make(1, n=64)
    exact = log_mean(population.log_normalizers(), dim=-1)[0, :, 0]
    assert measure_lag(subject(population, exact + math.log(4))).mean == pytest.approx(math.log(4))
    audit = audit_subject(subject(population, exact + math.log(4)))
    # The steps of the measurement have reduced the lag by a percent already.
    assert audit.lag.mean == pytest.approx(math.log(4), abs=0.03)
    assert audit.lag.spread < 0.03
    # u is four times too large, so three quarters of the normalizer part are missing.
    row = first_row(audit, "table at rest").v2
    log_g = population.log_normalizers()
    part = population.normalizer_gradients(log_g, log_mean(log_g, dim=-1)[None])[0]
    everything = part + population.alignment_gradient()
    assert row.relative == pytest.approx(0.75 * float(part.norm() / everything.norm()), rel=0.05)
    assert audit.worth == 0.0
    assert "of less than 8 with DCL" in audit.summary
    assert "A table gains nothing over DCL at batch 8" in audit.summary


@pytest.mark.parametrize("views", [2, 4])
def test_noise_of_the_stored_views_is_not_measured_as_lag(views) -> None:
    """The table averaged many views; the noise of a few stored views is not its error."""
    many = make(1, n=400, views=24 + 2 * views)
    few = replace(many, features=many.features[:, :, :views])
    log_g = few.log_normalizers(many.features)[0]  # (n, 24 + 2 views)
    exact = log_mean(log_g[:, 2 * views :], dim=-1)[:, 0]
    others = many.features[:, :, views : 2 * views]
    honest = audit_subject(subject(few, exact, others))
    naive = audit_subject(subject(few, exact))
    found, seeming = (first_row(audit, "table at rest").v2 for audit in (honest, naive))
    assert seeming.relative > 0.02
    assert found.relative < 0.01 or not found.seen
    assert honest.lag.spread < 0.03
    assert abs(honest.lag.mean) < 0.05
    log_g = few.log_normalizers()
    choices = torch.stack([log_g, exact[None, :, None].expand_as(log_g)])
    v1, v2 = few.normalizer_gradients(log_g, choices) + few.alignment_gradient()
    assert honest.distance == pytest.approx(float((v1 - v2).norm() / v2.norm()), rel=0.1)


def test_a_run_is_audited_and_left_unchanged(run, photos, capsys) -> None:
    before = (run / "checkpoint.pt").read_bytes()
    main(["audit", str(run), str(photos), "--device", "cpu"])
    shown = capsys.readouterr()
    assert (run / "checkpoint.pt").read_bytes() == before
    assert "SogCLR" in shown.out
    assert "At batch 8, this run's normalizers are" in shown.out
    stored = json.loads((run / "audit.json").read_text())
    assert stored["samples"] == 32
    assert [row["batch"] for row in stored["rows"] if row["estimator"] == "batch"] == [8, 16, 32]
    assert stored["summary"].split(":")[0] in shown.out.replace("\n", " ")
    with Image.open(run / "audit.png") as picture:
        assert picture.size[0] > 800


def test_the_table_is_the_runs_own(run, photos) -> None:
    """Each sample has its own row, also if some samples are left out."""
    options = {"views": 2, "batch_size": None, "temperature": None, "module": None, "device": "cpu"}
    state = torch.load(run / "checkpoint.pt")["loss"]
    found = open_subject(run, photos, samples=20, **options)
    assert len(found.population) == 20
    assert found.trained
    table = found.loss.normalizer
    torch.testing.assert_close(table.table, state["normalizer.table"])
    again = open_subject(run, photos, samples=20, **options)
    torch.testing.assert_close(again.population.features, found.population.features)
    norms = found.population.features.norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    first, second = found.population.features[0].unbind(dim=1)
    assert not torch.allclose(first, second)


def test_a_sample_that_the_run_has_not_visited_is_left_out(run, photos, capsys) -> None:
    Image.new("RGB", (12, 10)).save(photos / "red" / "new.png")
    found = sogclr.audit(run, photos, device="cpu")
    assert found.samples == 32
    assert "left out: 1 samples" in capsys.readouterr().err


@pytest.mark.parametrize("method", [pytest.param("simclr", marks=pytest.mark.slow), "dcl"])
def test_a_run_without_a_table(photos, tmp_path, method, capsys) -> None:
    sogclr.pretrain(photos, tmp_path / "run", method=method, epochs=1, **FAST)
    found = sogclr.audit(tmp_path / "run", photos, device="cpu")
    assert "normalizers kept per sample are" in found.summary


@pytest.mark.parametrize("mode", ["learned", "individual"])
def test_a_run_with_other_temperatures(photos, tmp_path, mode) -> None:
    sogclr.pretrain(photos, tmp_path / "run", temperature_mode=mode, epochs=2, **FAST)
    found = sogclr.audit(tmp_path / "run", photos, device="cpu")
    assert found.temperature != pytest.approx(0.2, rel=1e-5)
    assert found.temperature == pytest.approx(0.2, rel=0.5)


def test_an_encoder_before_training(photos, tmp_path) -> None:
    settings = {"batch_size": 8, "temperature": 0.3, "out": tmp_path / "x.png", "device": "cpu"}
    by_name = sogclr.audit("small", photos, **settings)
    assert (tmp_path / "x.json").exists()
    assert by_name.temperature == pytest.approx(0.3)
    own = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(6))
    own(torch.zeros(1, 3, 10, 10))
    assert sogclr.audit(own, photos, **settings).samples == 32


def test_the_users_own_encoder_is_left_unchanged(photos, tmp_path) -> None:
    own = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    own = torch.nn.Sequential(own, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
    before = {key: value.clone() for key, value in own.state_dict().items()}
    sogclr.audit(own, photos, batch_size=8, out=tmp_path, device="cpu")
    assert not own.training
    for key, value in own.state_dict().items():
        torch.testing.assert_close(value, before[key])
    assert (tmp_path / "audit.png").exists()


def test_a_run_from_trained_weights(photos, tmp_path) -> None:
    """An encoder with given weights keeps its stem, also for small images."""
    import timm

    weights = tmp_path / "weights.pt"
    torch.save(timm.create_model("test_resnet", num_classes=0).state_dict(), weights)
    settings = {**FAST, "encoder": "test_resnet", "image_size": 32, "weights": str(weights)}
    sogclr.pretrain(photos, tmp_path / "run", epochs=1, **settings)
    weights.unlink()
    assert sogclr.audit(tmp_path / "run", photos, device="cpu").samples == 32


def test_bad_input_is_one_line(run, photos, make_folder, tmp_path, capsys) -> None:
    assert "does not exist" in refused(capsys, "audit", run, tmp_path / "none")
    assert "'smal' is unknown; nearest: small" in refused(capsys, "audit", "smal", photos)
    assert "must be even" in refused(capsys, "audit", run, photos, "--views", "3")
    assert "leave them out" in refused(capsys, "audit", run, photos, "--batch-size", "8")
    assert "does not exist; give a run" in refused(capsys, "audit", tmp_path / "typo", photos)
    assert "not as .json" in refused(capsys, "audit", run, photos, "--out", tmp_path / "x.json")
    with pytest.raises(sogclr.UserError, match="does not fit"):
        sogclr.audit(run, photos, encoder=torch.nn.Linear(3, 3))
    lost = refused(capsys, "audit", run, photos, "--out", tmp_path / "none" / "x.png")
    assert "there is no folder" in lost
    other = make_folder("other", per_class=16, seed=1, size=(11, 11))
    assert "not what" in refused(capsys, "audit", run, other)
    few = make_folder("few", per_class=4)
    assert "too few to audit" in refused(capsys, "audit", "small", few)
    (run / "checkpoint.pt").unlink()
    assert "no checkpoint" in refused(capsys, "audit", run, photos)


def test_an_unreadable_image_is_left_out(run, photos, capsys) -> None:
    source = open_images(photos)
    broken = photos / source.names[3]
    size = broken.stat().st_size
    broken.write_bytes(broken.read_bytes()[: size // 2].ljust(size, b"\0"))
    assert sogclr.audit(run, photos, device="cpu").samples == 31
