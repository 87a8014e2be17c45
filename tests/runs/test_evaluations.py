"""Results of evaluations are kept in the run's folder, and read back."""

import json

from helpers.evaluations import read_evaluations

from sogclr.evaluation.retrieval import Direction
from sogclr.evaluation.zero_shot import ZeroShot
from sogclr.runs.evaluations import append_evaluation
from sogclr.runs.folder import Run

FOUND = Direction({1: 0.5, 5: 0.75, 10: 1.0}, 1.0, 8)


def test_results_come_back_in_order_with_what_was_measured(tmp_path):
    run = Run(tmp_path)
    append_evaluation(run, FOUND, data="digits", test=None)
    append_evaluation(run, FOUND, data=tmp_path / "photos", test=[1, 2])
    first, second = read_evaluations(run)
    assert first["data"] == "digits"
    assert second["data"].endswith("photos")
    assert "test" not in first
    assert "test" not in second  # data in memory has no name
    assert first["recall"] == {"1": 0.5, "5": 0.75, "10": 1.0}
    assert first["time"] <= second["time"]


def test_damaged_lines_do_not_hide_others(tmp_path):
    run = Run(tmp_path)
    append_evaluation(run, FOUND, data="digits")
    for damage in ('{"format": 1, "da', "[1]", "null", '{"format": 99}', "\x00", "[" * 100_000):
        with open(run.evaluations, "a") as file:
            file.write(damage + "\n")
    append_evaluation(run, FOUND, data="digits")
    assert [entry["queries"] for entry in read_evaluations(run)] == [8, 8]


def test_old_lines_go_when_there_are_many(tmp_path, monkeypatch):
    monkeypatch.setattr("sogclr.runs.evaluations.MOST_KEPT", 3)
    run = Run(tmp_path)
    for i in range(5):
        append_evaluation(run, Direction({1: 0.5}, 1.0, queries=i), data="digits")
    assert [entry["queries"] for entry in read_evaluations(run)] == [2, 3, 4]


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path, capsys):
    (tmp_path / "evaluations.jsonl").mkdir()
    append_evaluation(Run(tmp_path), FOUND, data="digits")
    said = capsys.readouterr().err
    assert "could not write" in said
    assert "the result above is complete" in said


def test_what_a_run_writes_is_json(tmp_path):
    run = Run(tmp_path)
    report = ZeroShot(0.5, None, 2, 0.5, ["a"], {'a"\n<b>': 0.5})
    append_evaluation(run, report, data=None)
    (line,) = run.evaluations.read_text().splitlines()
    assert json.loads(line)["per_class"] == {'a"\n<b>': 0.5}
    assert "top5" not in json.loads(line)
