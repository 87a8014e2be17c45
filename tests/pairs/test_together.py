"""Pairs that processes share."""

from launching import assert_alike, finished, started


# By SGD: the bias of attention's keys has no gradient but rounding, of which Adam makes full steps.
def test_two_processes_end_where_one_does(tiny, pairs, tmp_path):
    arguments = ["-m", "sogclr", "align", str(pairs), "--model", str(tiny), "--device", "cpu"]
    arguments += [
        "--batch-size",
        "8",
        "--epochs",
        "2",
        "--tau",
        "learned",
        "--rho",
        "1",
        "--optimizer",
        "sgd",
    ]
    for count in (1, 2):
        finished(
            started(
                count, *arguments, "--out", str(tmp_path / f"{count}"), "--precision", "32-true"
            )
        )
    assert_alike(tmp_path / "1", tmp_path / "2")
