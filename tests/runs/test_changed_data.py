import numpy as np
import pytest
import torch

from sogclr import GlobalContrastiveLoss, MoCoLoss, UserError
from sogclr.data.images.arrays import ArraySource
from sogclr.runs.changed_data import carry_over, fingerprint

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3), dtype=np.uint8)


def _source(ids):
    return ArraySource(PIXELS[ids], ids=ids)


def _identity(source):
    return {"": fingerprint(source.ids, source.marks)}


def _carried(loss, before, now):
    fresh = GlobalContrastiveLoss(len(now)).state_dict()
    return carry_over(loss.state_dict(), fresh, _identity(before), _identity(now), "run")


def _visited(n):
    loss = GlobalContrastiveLoss(n)
    g = torch.Generator().manual_seed(0)
    for _ in range(3):
        rows = torch.randperm(n, generator=g)[: n // 2]
        loss(*torch.randn(2, len(rows), 4, generator=g), rows)
    return loss


def test_unchanged_data_keeps_everything():
    loss, source = _visited(8), _source(range(8))
    state, told = _carried(loss, source, source)
    assert told is None
    assert all(torch.equal(value, loss.state_dict()[key]) for key, value in state.items())


def test_known_samples_keep_their_state_wherever_they_are_now():
    old, new = [3, 1, 7, 5, 9, 11], [5, 0, 3, 7, 10, 1, 9]
    loss = _visited(6)
    state, told = _carried(loss, _source(old), _source(new))
    grown = GlobalContrastiveLoss(7)
    grown.load_state_dict(state)
    for row, sample in enumerate(new):
        if sample in old:
            before = old.index(sample)
            assert grown.normalizer.log_u[row] == loss.normalizer.log_u[before]
            assert grown.normalizer.visits[row] == loss.normalizer.visits[before]
        else:
            assert grown.normalizer.visits[row] == 0
            assert grown.normalizer.log_u[row] == -torch.inf
    assert "5 samples are known" in told
    assert "2 are new, 1 are gone" in told


def test_a_sample_that_became_another_one_starts_fresh():
    changed = PIXELS.copy()
    changed[2] = 255 - changed[2]
    loss = _visited(12)
    state, told = _carried(loss, ArraySource(PIXELS), ArraySource(changed))
    assert state["normalizer.table"][:, 1][2] == 0
    assert "11 samples are known" in told


@pytest.mark.parametrize("size", [4, 6, 7])  # 7 entries are as many as a table of 6 samples has
def test_a_queue_keeps_its_keys_and_learns_the_rows_they_are_of(size):
    old, new = [3, 1, 7, 5, 9, 11], [5, 0, 3, 7, 10, 1, 9]
    g = torch.Generator().manual_seed(0)
    loss = MoCoLoss(size, 4)
    loss(*torch.randn(4, 6, 4, generator=g), torch.arange(6))
    fresh = MoCoLoss(size, 4).state_dict()
    state, _ = carry_over(
        loss.state_dict(), fresh, _identity(_source(old)), _identity(_source(new)), "run"
    )
    assert all(torch.equal(state[k], v) for k, v in loss.state_dict().items() if "ids" not in k)
    whose = [old[row] for row in loss.queue.ids]
    assert [new[row] if row >= 0 else 11 for row in state["queue.ids"].tolist()] == whose
    moved = MoCoLoss(size, 4)
    moved.load_state_dict(state)
    # The same samples, by their rows now, have the same negatives as by their rows before.
    sides = torch.randn(4, 5, 4, generator=g)
    rows = [torch.tensor([s.index(i) for i in (3, 1, 7, 5, 9)]) for s in (old, new)]
    assert torch.equal(loss(*sides, rows[0]), moved(*sides, rows[1]))


def test_another_data_set_is_refused_even_where_names_coincide():
    loss = _visited(12)
    for other in (ArraySource(255 - PIXELS), ArraySource(PIXELS, ids=range(100, 112))):
        with pytest.raises(UserError, match="not what run was trained on"):
            _carried(loss, ArraySource(PIXELS), other)
