"""Runs on pairs can be audited."""

import json
import math

import pytest
import torch
from helpers.refusal import refused

import sogclr
from sogclr.auditing import measure
from sogclr.auditing.subject import open_subject
from sogclr.commands.cli import main
from sogclr.data.open_pairs import open_pairs


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Use few visits: how exact the figures are does not matter here."""
    monkeypatch.setattr(measure, "VISITS", 100)


def open_run(run, pairs):
    nothing = {"batch_size": None, "temperature": None, "module": None}
    return open_subject(run, pairs, samples=100, views=2, device="cpu", **nothing)


@pytest.mark.parametrize("name", [pytest.param("trained", marks=pytest.mark.slow), "joined"])
def test_images_and_captions(request, name, pairs, tmp_path, capsys):
    run = request.getfixturevalue(name)
    main(["audit", str(run), str(pairs), "--out", str(tmp_path / "a.png"), "--device", "cpu"])
    assert "At batch 8, this run's normalizers are" in capsys.readouterr().out
    assert (tmp_path / "a.png").exists()


def test_each_side_has_its_own_rows(trained, pairs):
    found = open_run(trained, pairs)
    source = open_pairs(pairs)
    state = torch.load(trained / "checkpoint.pt")["loss"]
    images, texts = found.population.rows
    for image, text in zip(images.tolist(), texts.tolist(), strict=True):
        own = source.partners[source.start[image] : source.start[image + 1]]
        assert text in own
    for side, rows in (("a", images), ("b", texts)):
        table = getattr(found.loss, f"normalizer_{side}")
        torch.testing.assert_close(table.log_u[rows], state[f"normalizer_{side}.table"][:, 0][rows])
        assert (table.visits[rows] > 0).all()
    a, b = found.population.features
    assert not torch.allclose(a, b)
    assert (a * b).sum(dim=-1).mean() > (a * b.roll(1, dims=0)).sum(dim=-1).mean()


def test_two_texts(on_texts, sentences):
    assert sogclr.audit(on_texts, sentences, device="cpu").samples == 24


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature_mode": "individual", "rho": 1.0},
        {"temperature_mode": "learned", "rho": 1.0},
        {"method": "clip"},
    ],
)
def test_other_losses(pairs, fast, tmp_path, settings):
    sogclr.align(pairs, tmp_path / "run", **{**fast, "epochs": 6}, **settings)
    found = sogclr.audit(tmp_path / "run", pairs, device="cpu")
    assert all(math.isfinite(row.v1.relative + row.v2.relative) for row in found.rows)
    kept = "normalizers kept per sample" if "method" in settings else "this run's normalizers"
    assert kept in found.summary


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature_mode": "individual", "rho": 1.0},
        {"temperature_mode": "learned", "rho": 1.0},
        {"method": "clip"},
    ],
)
def test_errors_of_normalizers_are_among_the_metrics(pairs, fast, tmp_path, settings):
    sogclr.align(pairs, tmp_path / "run", **{**fast, "batch_size": 4}, **settings)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    expected = (
        {"in_batch_error"} if "method" in settings else {"in_batch_error", "normalizer_error"}
    )
    for row in rows:
        assert expected == {name for name in row if name.endswith("_error")}
        assert all(0 <= row[name] < 20 for name in expected)
        assert ("normalizer_error" in row) == ("normalizer_lag" in row)
        if "normalizer_error" in row:
            parts = math.hypot(row["normalizer_lag"], row["normalizer_spread"])
            assert parts == pytest.approx(row["normalizer_error"], abs=0.2)


def test_siglip_has_nothing_to_audit(pairs, fast, tmp_path, capsys):
    sogclr.align(pairs, tmp_path / "run", **{**fast, "epochs": 1}, method="siglip")
    assert "no normalizer" in refused(capsys, "audit", tmp_path / "run", pairs)
