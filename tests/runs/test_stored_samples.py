"""log u of each sample, as the loss of the run has it, looked up by sample id."""

import numpy as np
import pytest
import torch

from sogclr.common.errors import UserError
from sogclr.losses import GlobalClipLoss, GlobalContrastiveLoss, NTXentLoss
from sogclr.runs.folder import Run
from sogclr.runs.stored_samples import align_by_id, read_known_samples, read_samples

IDS = torch.tensor([5, -3, 2**40, 0])  # as int64; -3 is above 2**63 as uint64


def write(folder, loss, data):
    run = Run(folder)
    run.write_checkpoint({"loss": loss.state_dict(), "data": data})
    return run


def trained(loss, rows, **settings):
    torch.manual_seed(0)
    for _ in range(3):
        loss(*torch.randn(2, len(rows), 8), torch.tensor(rows), **settings).detach()
    return loss


@pytest.mark.parametrize("level", [False, True])
def test_images_have_the_log_u_of_the_loss(tmp_path, level):
    loss = trained(GlobalContrastiveLoss(4, level=level), [0, 1, 3])
    (stored,) = read_samples(write(tmp_path, loss, {"": {"ids": IDS, "marks": IDS}})).values()
    assert stored.ids.tolist() == [5, 2**64 - 3, 2**40, 0]
    assert stored.log_u.tolist() == loss.normalizer.log_u[:-1].tolist()
    assert stored.log_u[2] == -torch.inf  # without a visit


def test_pairs_have_a_number_on_each_side(tmp_path):
    loss = trained(GlobalClipLoss((4, 3)), [0, 1, 2], index_b=torch.tensor([2, 0, 1]))
    data = {"_a": {"ids": IDS}, "_b": {"ids": IDS[:3]}}
    stored = read_samples(write(tmp_path, loss, data))
    assert list(stored) == ["a", "b"]
    assert stored["a"].log_u.tolist() == loss.normalizer_a.log_u[:-1].tolist()
    assert stored["b"].log_u.tolist() == loss.normalizer_b.log_u[:-1].tolist()


@pytest.mark.parametrize("loss", [NTXentLoss(), GlobalContrastiveLoss(100)])
def test_samples_without_a_row_of_their_own_have_no_number(tmp_path, loss):
    (stored,) = read_samples(write(tmp_path, loss, {"": {"ids": IDS}})).values()
    assert stored.log_u is None
    assert len(stored.ids) == 4


@pytest.mark.parametrize("level", [torch.zeros(7), 3, torch.zeros(1, 4, 2)])
def test_a_damaged_table_is_refused(tmp_path, level):
    loss = {"normalizer.table": torch.zeros(5, 2), "normalizer.state": level}
    run = Run(tmp_path)
    run.write_checkpoint({"loss": loss, "data": {"": {"ids": IDS}}})
    with pytest.raises(UserError, match=r"the table in .* cannot be read"):
        read_samples(run)


def test_values_follow_the_ids():
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 2**64, 50, dtype=np.uint64)
    values = rng.normal(size=50).astype(np.float32)
    known = dict(zip(stored.tolist(), values.tolist(), strict=True))
    ids = np.concatenate([stored[::-3], np.array([0, 2**64 - 1, 7], dtype=np.uint64)])
    found = align_by_id(ids, stored, values)
    expected = [known.get(each, np.nan) for each in ids.tolist()]
    np.testing.assert_array_equal(found, expected)


def test_nothing_is_stored():
    empty = np.empty(0, dtype=np.uint64)
    assert np.isnan(align_by_id(np.array([3], dtype=np.uint64), empty, np.empty(0))).all()


def test_what_can_do_without_goes_on(tmp_path, capsys):
    run = Run(tmp_path)
    assert read_known_samples(run) == {}  # no checkpoint yet
    assert capsys.readouterr().err == ""
    loss = {"normalizer.table": torch.zeros(5, 2), "normalizer.state": torch.zeros(7)}
    run.write_checkpoint({"loss": loss, "data": {"": {"ids": IDS}}})
    assert read_known_samples(run) == {}
    assert "left out: log u (run: the table in" in capsys.readouterr().err
