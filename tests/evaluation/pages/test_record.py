"""The record of a run: half-written lines, damaged values, runs of older versions."""

import json

import pytest

from sogclr.common.errors import UserError
from sogclr.evaluation.pages.record import RunRecord
from sogclr.planning.settings_images import ImageSettings
from sogclr.runs.folder import Run


@pytest.fixture
def make_record(tmp_path):
    def make(lines=(), **stored):
        run = Run(tmp_path)
        settings = ImageSettings(epochs=4).as_dict()
        run.write_settings({"asked": settings, "resolved": settings, **stored})
        run.metrics.write_text("\n".join(lines))
        return RunRecord.read(run)

    return make


def test_lines_that_are_no_numbers_are_left_out(make_record):
    good = {"step": 1, "epoch": 0.5, "objective": 2.0, "uniformity": None, "knn": float("nan")}
    lines = [
        json.dumps(good),
        "[1, 2]",
        '{"step": 3}',
        '{"step": 2, "epoch": "x"}',
        '{"step": 2, "epoch": 1e999}',
        "[" * 5000,
        json.dumps({**good, "step": 2, "epoch": 1})[:30],
    ]
    record = make_record(lines)
    assert record.metrics == [{"step": 1.0, "epoch": 0.5, "objective": 2.0}]
    assert record.curve("objective") == ([0.5], [2.0])
    assert record.curve("knn") == ([], [])


def test_a_run_is_complete_once_all_epochs_are_logged(make_record, tmp_path):
    lock = Run(tmp_path).lock
    lock.touch()
    record = make_record(['{"step": 3, "epoch": 3.5}'])
    assert (record.is_complete, record.is_training) == (False, True)
    lock.unlink()
    assert not record.is_training
    assert make_record(['{"step": 4, "epoch": 4.0}']).is_complete


@pytest.mark.parametrize("reasons", [None, "x", [["a", "b"]], [1, None], {"a": 1}])
def test_runs_without_reasons_have_none(make_record, reasons):
    record = make_record() if reasons is None else make_record(reasons=reasons)
    assert record.reasons == []


def test_reasons_and_data_are_read(make_record):
    record = make_record(reasons=[["batch size", "8", "as given"]], data="/photos")
    assert record.reasons == [["batch size", "8", "as given"]]
    assert record.data == "/photos"
    assert make_record(data=3).data is None


def test_damaged_settings_are_refused(make_record):
    with pytest.raises(UserError, match="resolved"):
        make_record(resolved={"epochs": "many"})
