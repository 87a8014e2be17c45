"""Lines and bar of a run, on a terminal and elsewhere."""

import io

import pytest
from rich.console import Console

from sogclr.common import console as shown
from sogclr.training import progress

ROW = {
    "step": 50,
    "epoch": 5.0,
    "objective": -0.4321,
    "alignment": 0.363,
    "uniformity": -2.791,
    "learning_rate": 0.001,
    "samples_per_second": 1234.4,
    "normalizer_error": 0.211,
    "in_batch_error": 0.433,
}


@pytest.fixture(params=[True, False], ids=["terminal", "file"])
def output(request, monkeypatch):
    """Return the text of everything that is printed; and whether it goes to a terminal."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=request.param, width=100, soft_wrap=True)
    for module in (progress, shown):
        monkeypatch.setattr(module, "console", console)
    return file, request.param


def lines(file):
    return [line.rstrip() for line in file.getvalue().replace("\r", "\n").split("\n")]


def test_a_scored_epoch_stays_as_one_line(output):
    file, _ = output
    run = progress.RunProgress(100, 10)
    with run.showing(0, {}):
        run.show({**ROW, "knn": 0.9123}, milestone=True)
    (line,) = [line for line in lines(file) if "objective -0.432" in line]
    assert line.endswith("knn 91.2%")
    for part in ("alignment 0.36", "uniformity -2.79", "log g off by 0.21 (0.43)"):
        assert part in line


def test_numbers_are_explained_once(output):
    file, _ = output
    run = progress.RunProgress(100, 10)
    with run.showing(0, {}):
        for step in (50, 60, 100):
            run.show({**ROW, "step": step, "knn": 0.9}, milestone=True)
    for start in ("  objective, ", "  log g off by:", "  knn:"):
        assert sum(start in line for line in lines(file)) == 1
    assert "R@1" not in file.getvalue()


def test_between_scored_epochs_only_the_bar_changes(output):
    file, is_terminal = output
    run = progress.RunProgress(100, 10)
    with run.showing(0, {"knn": 0.5}):
        run.show(ROW, milestone=False)
    assert "objective" not in file.getvalue()
    assert ("epoch 5.0 of 10" in file.getvalue()) == is_terminal
    assert ("knn 50.0%" in file.getvalue()) == is_terminal  # the latest score


def test_the_bar_fits_into_a_hundred_columns(output):
    file, is_terminal = output
    if not is_terminal:
        pytest.skip("no bar")
    run = progress.RunProgress(100_000, 1_000)
    with run.showing(0, {}):
        run.show(
            {**ROW, "epoch": 999.5, "samples_per_second": 123_456, "knn": 1.0}, milestone=False
        )
    (bar, *_) = [line for line in lines(file) if "samples/s" in line]
    assert bar.endswith("knn 100.0%")
    assert "%" in bar


def test_the_last_step_is_told_where_there_is_no_bar(output):
    file, is_terminal = output
    run = progress.RunProgress(50, 5)
    with run.showing(0, {}):
        run.show(ROW, milestone=False)
    assert ("objective -0.432" in file.getvalue()) == (not is_terminal)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], {}),
        ([ROW], {}),
        ([{**ROW, "knn": 0.1}, {**ROW, "knn": 0.2}, ROW], {"knn": 0.2}),
    ],
)
def test_latest_scores(rows, expected):
    assert progress.latest_scores(rows) == expected
