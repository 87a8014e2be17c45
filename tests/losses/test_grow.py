"""Law: a loss that has grown is the loss that had all rows from the start."""

from functools import partial

import pytest
import torch
from helpers.growing import FEW, MANY, batches, grow_shards
from helpers.launching import spread

from sogclr import GlobalClipLoss, GlobalContrastiveLoss, IndividualTemperature
from sogclr.losses.normalizer import Normalizer
from sogclr.losses.normalizer_scalar import ScalarNormalizer
from sogclr.losses.normalizer_scent import ScentNormalizerTable

TAU = partial(IndividualTemperature, 0.3, rho=1.0)


def own_tau(make):
    return lambda *sizes: make(*sizes, temperature=TAU())


TWO_VIEWS = {
    "table": GlobalContrastiveLoss,
    "level": partial(GlobalContrastiveLoss, level=True),
    "memory": partial(GlobalContrastiveLoss, memory_size=4),
    "individual": own_tau(GlobalContrastiveLoss),
    "scent": partial(
        GlobalContrastiveLoss, normalizer=partial(ScentNormalizerTable, log_alpha=-1.0)
    ),
    "scalar": partial(GlobalContrastiveLoss, normalizer=ScalarNormalizer),
    "views": partial(GlobalContrastiveLoss, num_stored_views=2),
}
PAIRS = {
    "pairs": GlobalClipLoss,
    "pairs, level": partial(GlobalClipLoss, level=True),
    "pairs, individual": own_tau(GlobalClipLoss),
}


def train(loss, highest, seed, **more):
    """Return the values and gradients of some steps."""
    found = []
    for a, b, index in batches(highest, seed):
        a.requires_grad_()
        value = loss(a, b, index, **{name: make(index) for name, make in more.items()})
        value.backward()
        found += [value.detach(), a.grad]
    return found


def views(index):
    return index % 2, (index + 1) % 2


@pytest.mark.parametrize("name", TWO_VIEWS)
def test_growing_is_having_all_rows_from_the_start(name):
    more = {"views": views} if name == "views" else {}
    grown, large = TWO_VIEWS[name](FEW), TWO_VIEWS[name](MANY)
    train(grown, FEW, 0, **more)
    train(large, FEW, 0, **more)
    grown.grow(MANY)
    same(grown, large, train(grown, MANY, 1, **more), train(large, MANY, 1, **more))


@pytest.mark.parametrize("name", PAIRS)
def test_each_side_of_pairs_grows(name):
    """Equal sizes become different: side b then has its own ids."""
    grown, large = PAIRS[name](FEW), PAIRS[name]((MANY, 2 * MANY))
    texts = {"index_b": lambda index: 2 * index}
    train(grown, FEW // 2, 0, **texts)
    train(large, FEW // 2, 0, **texts)
    grown.grow((MANY, 2 * MANY))
    same(grown, large, train(grown, MANY, 1, **texts), train(large, MANY, 1, **texts))


def same(grown, large, found, expected):
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    stored, wanted = grown.state_dict(), large.state_dict()
    assert stored.keys() == wanted.keys()
    for key, value in wanted.items():
        assert torch.equal(stored[key], value), key


def test_a_checkpoint_of_the_grown_loss_loads_into_a_large_one():
    grown = GlobalContrastiveLoss(FEW, level=True)
    train(grown, FEW, 0)
    grown.grow(MANY)
    large = GlobalContrastiveLoss(MANY, level=True)
    large.load_state_dict(grown.state_dict())
    same(grown, large, train(grown, MANY, 1), train(large, MANY, 1))


def test_a_row_for_invalid_ids_does_not_become_a_sample():
    """What an invalid id has written on an accelerator is not the state of a new sample."""
    loss = GlobalContrastiveLoss(FEW, temperature=TAU())
    loss.normalizer.table[-1] = 7.0
    loss.temperature.tau[-1] = 0.9
    loss.temperature.velocity[-1] = 0.9
    loss.grow(MANY)
    assert not loss.normalizer.visits.any()
    assert (loss.temperature.tau == torch.tensor(0.3)).all()
    assert not loss.temperature.velocity.any()


def test_no_row_is_lost():
    loss = GlobalClipLoss((FEW, MANY))
    for sizes in ((FEW - 1, MANY), (FEW + 1, MANY - 1)):
        with pytest.raises(ValueError, match=r"rows cannot become"):
            loss.grow(sizes)
        assert loss.num_samples == (FEW, MANY)
        assert [loss.normalizer_a.num_rows, loss.normalizer_b.num_rows] == [FEW, MANY]
    loss.grow((FEW, MANY))  # nothing to do


def test_an_estimator_that_does_not_say_how_it_grows_is_refused():
    class Rows(Normalizer):
        pass

    with pytest.raises(NotImplementedError, match=r"Rows does not say how its rows grow"):
        GlobalContrastiveLoss(FEW, normalizer=lambda rows: Rows()).grow(MANY)


@pytest.mark.parametrize("level", [False, True])
def test_shards_of_a_table_grow(tmp_path, level):
    spread(2, grow_shards, str(tmp_path), level)
    large = GlobalContrastiveLoss(MANY, level=level)
    expected = [
        large(a, b, index).detach()
        for highest in (FEW, MANY)
        for a, b, index in batches(highest, highest)
    ]
    for rank in range(2):
        found, state, shape = torch.load(tmp_path / f"{rank}.pt")
        assert shape == (17, 2)  # 16 of 31 rows, and the spare one
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(state, dict(large.state_dict()))
