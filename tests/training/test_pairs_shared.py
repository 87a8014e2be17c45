"""Pairs that processes share."""

import pytest
from helpers.bits import assert_alike
from helpers.launching import finished, started

# By SGD: the bias of attention's keys has no gradient but rounding, of which Adam makes full steps.
SETTINGS = {
    "--device": "cpu",
    "--precision": "32-true",
    "--batch-size": "8",
    "--epochs": "2",
    "--temperature-mode": "learned",
    "--rho": "1",
    "--optimizer": "sgd",
}


# Both sides of sentences go through one tower, twice a step.
@pytest.mark.parametrize("table", ["pairs", pytest.param("sentences", marks=pytest.mark.slow)])
def test_two_processes_end_where_one_does(table, make_config, request, tmp_path):
    model = make_config(vision_cfg={"layers": 2}, text_cfg={"layers": 2})
    command = ["-m", "sogclr", "align", str(request.getfixturevalue(table)), "--model", str(model)]
    command += [word for setting in SETTINGS.items() for word in setting]
    runs = {"alone": (1, []), "copied": (2, []), "sharded": (2, ["--shard-model"])}
    processes = [
        started(count, *command, "--out", str(tmp_path / name), *option)
        for name, (count, option) in runs.items()
    ]
    for process in processes:
        finished(process)
    for name in ("copied", "sharded"):
        assert_alike(tmp_path / "alone", tmp_path / name)
