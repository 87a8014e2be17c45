"""What is computed, against what was when it was recorded: `python tests/recorded/record.py`."""

import json

import pytest
import torch
from cases import CASES, SHARED, compute, compute_shared
from record import LOSSES, RUNS_FILE
from runs import RUNS, compute_run, prepare
from safetensors.torch import load_file

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 2e-3}
OF_RUNS = 1e-5


@pytest.fixture(scope="module")
def recorded():
    """The recording of losses, by case."""
    found = {}
    for key, value in load_file(LOSSES).items():
        case, name = key.split("|")
        found.setdefault(case, {})[name] = value
    return found


@pytest.fixture(scope="module")
def recorded_runs():
    return json.loads(RUNS_FILE.read_text())


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return compute_shared(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    prepare(folder)
    return folder


def agree(found, expected, tolerance):
    """Compare everything, and name what differs."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name],
            value,
            rtol=tolerance,
            atol=tolerance,
            equal_nan=True,
            msg=lambda said, name=name: f"{name}: {said}",
        )


def test_every_case_is_recorded(recorded, recorded_runs):
    assert recorded.keys() == {*CASES, *SHARED}
    assert recorded_runs.keys() == RUNS.keys()


@pytest.mark.parametrize("name", CASES)
def test_a_loss(recorded, name):
    agree(compute(CASES[name]), recorded[name], TOLERANCE[CASES[name].dtype])


@pytest.mark.parametrize("name", SHARED)
def test_a_loss_of_two_processes(recorded, shared, name):
    agree(shared[name], recorded[name], TOLERANCE[SHARED[name].dtype])


@pytest.mark.parametrize("name", RUNS)
def test_a_run(recorded_runs, prepared, name):
    found, expected = compute_run(name, prepared), recorded_runs[name]
    for part in ("metrics", "weights"):
        assert found[part].keys() == expected[part].keys()
        for key, value in expected[part].items():
            assert found[part][key] == pytest.approx(value, rel=OF_RUNS, abs=OF_RUNS), key
