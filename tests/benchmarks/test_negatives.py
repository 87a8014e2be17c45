"""`benchmarks/negatives.py`: the loss over groups, equal conditions for all methods, results."""

import json
import math

import lockstep
import negatives
import negatives_results
import numpy as np
import pytest
import torch
from negatives_results import SIZES, TEMPERATURES, Cell, Results, Size, groups_of_runs

from sogclr import DecoupledContrastiveLoss
from sogclr.losses.base import ContrastiveLoss

TAU = 0.1
METHODS = ("simclr", "dcl", "table", "level")


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(16, 8, generator=generator, dtype=torch.float64) for _ in range(2)]


def build_loss(method) -> ContrastiveLoss:
    return negatives.build_loss(Cell(method, 8, TAU, 0, False), 20)


@pytest.mark.parametrize("group", [2, 4, 16])
def test_an_anchor_meets_the_negatives_of_its_group_alone(features, group):
    index = torch.arange(16)
    loss = DecoupledContrastiveLoss(TAU, scale="temperature")
    result = lockstep.grouped_loss(loss, *features, index, group)
    first, second = (torch.nn.functional.normalize(side, dim=1) for side in features)
    views = torch.cat([first, second])
    total = 0.0
    for anchor in range(32):
        sample = anchor % 16
        others = [i for i in range(32) if i % 16 != sample and (i % 16) // group == sample // group]
        log_sum = (views[others] @ views[anchor] / TAU).logsumexp(dim=0)
        total += TAU * (log_sum - math.log(len(others))) - first[sample] @ second[sample]
    assert result.item() == pytest.approx(total.item() / 32)


@pytest.mark.parametrize("method", METHODS)
def test_one_group_is_the_loss_of_the_batch(features, method):
    index = torch.arange(16)
    whole = build_loss(method)(*features, index)
    assert lockstep.grouped_loss(build_loss(method), *features, index, 16) == whole


@pytest.mark.parametrize("method", ["table", "level"])
def test_every_sample_gets_its_row_in_whatever_group(features, method):
    loss = build_loss(method)
    lockstep.grouped_loss(loss, *features, torch.arange(2, 18), 4)
    assert loss.normalizer.visits[:20].tolist() == [0, 0, *[1] * 16, 0, 0]


def test_runs_that_share_views_start_from_the_same_weights():
    one, other, third = (
        list(lockstep.build_model("small", 16, seed).parameters()) for seed in (3, 3, 4)
    )
    assert all(map(torch.equal, one, other))
    assert not all(map(torch.equal, one, third))


def test_a_run_beside_others_equals_the_run_alone():
    pixels = torch.randint(256, (24, 3, 16, 16), dtype=torch.uint8)

    def train(methods):
        learners = [
            lockstep.Learner(lockstep.build_model("small", 16, 0), build_loss_of(method), 4, 8, 6)
            for method in methods
        ]
        assert lockstep.train(learners, lockstep.Views(pixels, 0), 8, 2, lambda *_: True)
        return [learner.model.encoder.stem[0].weight for learner in learners]

    def build_loss_of(method):
        return negatives.build_loss(Cell(method, 4, TAU, 0, False), 24)

    together = train(["dcl", "level"])
    assert torch.equal(together[1], *train(["level"]))
    assert not torch.equal(*together)


def test_views_depend_on_seed_epoch_and_image_alone():
    views = lockstep.Views(torch.randint(256, (9, 3, 16, 16), dtype=torch.uint8), 0)
    rows = views.order(1)
    assert sorted(rows) == list(range(9))
    both = views.draw(rows, 1)
    alone = views.draw(rows[4:5], 1)
    torch.testing.assert_close(both[[4, 13]], alone)
    assert not torch.allclose(views.draw(rows[4:5], 2), alone)


def test_the_half_resnet_has_half_the_channels_and_features_of_every_image():
    encoder = lockstep.half_resnet18()
    assert encoder(torch.zeros(2, 3, 32, 32)).shape == (2, 256)
    assert sum(p.numel() for p in encoder.parameters()) == pytest.approx(11.2e6 / 4, rel=0.02)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A size of one b and two seeds, whose results are in a folder of its own."""
    size = Size(2, 16, "small", 16, (4,), 1, (0, 1), False)
    monkeypatch.setitem(SIZES, "tiny", size)
    monkeypatch.setattr(negatives_results, "RESULTS", tmp_path)
    return tmp_path / "negatives_tiny.jsonl"


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["negatives.py", "--size", "tiny", *arguments])
    negatives.main()


def test_every_run_is_filed_once_with_all_scores(small, monkeypatch, capsys):
    run(monkeypatch, "--minutes", "0")
    assert "Time is up" in capsys.readouterr().out
    assert not small.read_text()
    run(monkeypatch)
    rows = [json.loads(line) for line in small.read_text().splitlines()]
    assert {(row["method"], row["seed"]) for row in rows} == {
        (m, s) for m in METHODS for s in (0, 1)
    }
    assert len(rows) == 8
    scores = np.array([[row[score] for score in negatives_results.SCORES] for row in rows])
    assert np.isfinite(scores.astype(float)).all()
    printed = capsys.readouterr().out
    assert "b 4, F: level better than the better of SimCLR and DCL by" in printed

    small.write_text("".join(small.read_text().splitlines(keepends=True)[:7]))  # one run is lost
    run(monkeypatch)
    again = [json.loads(line) for line in small.read_text().splitlines()]
    different = {"seconds": 0}
    assert [row | different for row in again] == [row | different for row in rows]


def test_results_of_another_size_are_kept_but_not_used(small):
    other = {"setup": {"classes": 3}, "method": "dcl"}
    small.write_text(json.dumps(other) + "\n")
    results = Results("tiny")
    assert results.rows == []
    results.write()
    assert json.loads(small.read_text()) == other


def test_the_best_recall_of_the_tuning_runs_chooses_the_temperature(tmp_path, monkeypatch):
    monkeypatch.setattr(negatives_results, "RESULTS", tmp_path)
    results = Results("cpu")
    planned = groups_of_runs(results)
    for _ in TEMPERATURES:
        for cell in next(planned):
            assert cell.tuning
            best = cell.temperature == {"simclr": 0.05, "table": 0.2}.get(cell.method, 0.1)
            results.rows.append({**vars(cell), "recall": 50 * best, "setup": results.setup})
    assert [cell.temperature for cell in next(planned)] == [0.05, 0.1, 0.2, 0.1]
    results.write()
    gpu = next(iter(groups_of_runs(Results("gpu"))))
    assert [cell.temperature for cell in gpu] == [0.05, 0.1, 0.2, 0.1]
