"""What the package promises to learn, on real data. Minutes long: pytest -m slow."""

import importlib.util
from pathlib import Path

import pytest

import sogclr

pytestmark = pytest.mark.slow


def test_digits_halve_the_untrained_encoders_error(tmp_path):
    sogclr.pretrain("digits", tmp_path / "run", epochs=30, device="cpu")
    report = sogclr.evaluate(tmp_path / "run", "digits")
    assert 1 - report.trained.knn <= (1 - report.untrained.knn) / 2


def test_cifar10_subset_reaches_42_percent(tmp_path, shared_data, monkeypatch):
    path = Path(__file__).parents[1] / "benchmarks" / "cifar10_subset.py"
    spec = importlib.util.spec_from_file_location("cifar10_subset", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    monkeypatch.setenv("SOGCLR_DATA", str(shared_data))
    train, test = benchmark.subset(tmp_path)
    accuracy = benchmark.one_run("sogclr", 0, train, test, tmp_path / "run")["accuracy"]
    assert accuracy["trained"]["knn"] >= 0.42
    assert accuracy["trained"]["knn"] > max(
        accuracy["untrained"]["knn"], accuracy["raw pixels"]["knn"]
    )
