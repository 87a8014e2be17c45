"""The table of log u against a dictionary of u in linear space."""

import math
from statistics import fmean

import pytest
import torch

from sogclr.losses.normalizer import InBatchNormalizer
from sogclr.losses.normalizer_table import NormalizerTable, step_size, update_normalizers

CPU = torch.device("cpu")
NUM_ROWS = 6


def make_table(gamma_min=0.1, gamma_decay_visits=None, dtype=torch.float64):
    return NormalizerTable(
        NUM_ROWS, gamma_min=gamma_min, gamma_decay_visits=gamma_decay_visits, dtype=dtype
    )


def random_visits(steps, seed=0):
    """Batches of distinct rows with their log ĝ; seen and new rows mix from the second on."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randperm(NUM_ROWS, generator=generator)[:3]
        yield rows, 4 * torch.randn(3, dtype=torch.float64, generator=generator)


def stored(table):
    return table.log_u.clone(), table.visits.clone()


def assert_unchanged(table, before):
    assert torch.equal(table.log_u, before[0])
    assert torch.equal(table.visits, before[1])


@pytest.fixture
def ids_on_accelerator(monkeypatch):
    # A compiling CPU takes the path of ids that are on a device already: nothing may branch on
    # their values.
    monkeypatch.setattr("sogclr.losses.torch_versions.is_compiling", lambda: True)


def gamma_by_hand(visits, gamma_min, gamma_decay_visits):
    if gamma_decay_visits is None:
        return max(gamma_min, 1 / visits)
    if visits > gamma_decay_visits:
        return gamma_min
    return (
        gamma_min
        + (1 - gamma_min) * (1 + math.cos(math.pi * (visits - 1) / gamma_decay_visits)) / 2
    )


@pytest.mark.parametrize("gamma_decay_visits", [None, 1, 7, 1000])
@pytest.mark.parametrize("gamma_min", [1e-9, 0.3, 1.0])
def test_recursion_in_linear_space(gamma_min, gamma_decay_visits):
    table = make_table(gamma_min, gamma_decay_visits)
    u, visits = [0.0] * NUM_ROWS, [0] * NUM_ROWS
    for rows, log_g in random_visits(steps=60):
        returned = table(rows, log_g).tolist()
        for row, value, log_u in zip(rows.tolist(), log_g.exp().tolist(), returned, strict=True):
            visits[row] += 1
            gamma = gamma_by_hand(visits[row], gamma_min, gamma_decay_visits)
            u[row] = (1 - gamma) * u[row] + gamma * value
            assert math.exp(log_u) == pytest.approx(u[row], rel=1e-11)
    assert min(visits) > 20
    assert table.visits[:NUM_ROWS].tolist() == visits
    assert table.log_u[:NUM_ROWS].exp().tolist() == pytest.approx(u, rel=1e-11)


class Halved(NormalizerTable):
    """It has a way of its own."""

    def forward(self, rows, log_g):
        return super().forward(rows, log_g - math.log(2))


TOGETHER = {
    "alike": (make_table, make_table),
    "of other sizes": (make_table, lambda: NormalizerTable(9, gamma_min=0.1, dtype=torch.float64)),
    "of other gammas": (make_table, lambda: make_table(gamma_min=0.7)),
    "of other dtypes": (make_table, lambda: make_table(dtype=torch.float32)),
    "one of another kind": (make_table, lambda: Halved(9, gamma_min=0.1, dtype=torch.float64)),
    "both of another kind": (lambda: Halved(NUM_ROWS, gamma_min=0.1, dtype=torch.float64),) * 2,
    "one that keeps nothing": (make_table, InBatchNormalizer),
}


@pytest.mark.parametrize("kinds", TOGETHER.values(), ids=TOGETHER)
def test_sides_together_are_each_alone(kinds):
    together, alone = [[make() for make in kinds] for _ in range(2)]
    generator = torch.Generator().manual_seed(0)
    for step in range(12):
        # Different rows, equal ones, and what is never written; in the end a look-up.
        rows = [torch.randint(NUM_ROWS, (4,), generator=generator) for _ in kinds]
        if step % 2:
            rows = [torch.randperm(NUM_ROWS, generator=generator)[:4] for _ in kinds]
        log_g = 4 * torch.randn(2, 4, dtype=torch.float64, generator=generator)
        log_g[step % 2, 0] = math.inf if step % 5 == 4 else log_g[step % 2, 0]
        for table in together + alone:
            table.train(step < 11)
        found = update_normalizers(list(zip(together, rows, strict=True)), log_g)
        expected = [each(*own) for each, *own in zip(alone, rows, log_g, strict=True)]
        assert found.dtype == log_g.dtype
        torch.testing.assert_close(found, torch.stack(expected), rtol=1e-14, atol=0)
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=1e-14, atol=0)


def test_one_over_visits_is_the_mean_of_all_visits():
    table = make_table(gamma_min=1e-9)
    seen = [[] for _ in range(NUM_ROWS)]
    for rows, log_g in random_visits(steps=60):
        table(rows, log_g)
        for row, value in zip(rows.tolist(), log_g.exp().tolist(), strict=True):
            seen[row].append(value)
    means = [fmean(values) for values in seen]
    assert table.log_u[:NUM_ROWS].exp().tolist() == pytest.approx(means, rel=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gamma_min", [1e-3, 0.2, 0.9, 1.0])
def test_step_size_at_its_ends(gamma_min, dtype):
    tolerance = {"rtol": 1e-6, "atol": 0.0}
    visits = torch.tensor([1, 2, 10, 11, 1_000_000])
    limit = torch.tensor(gamma_min, dtype=dtype)
    for gamma_decay_visits in (None, 1, 10):
        gamma = step_size(visits, gamma_min, gamma_decay_visits, dtype)
        assert gamma.dtype == dtype
        assert gamma[0] == 1
        torch.testing.assert_close(gamma[-1], limit, **tolerance)
    # Where each kind arrives: a decay over k visits after k of them.
    torch.testing.assert_close(step_size(visits, gamma_min, 1, dtype)[1], limit, **tolerance)
    torch.testing.assert_close(step_size(visits, gamma_min, 10, dtype)[3], limit, **tolerance)
    halfway = step_size(torch.tensor(6), gamma_min, 10, dtype)
    torch.testing.assert_close(halfway, (1 + limit) / 2, **tolerance)


def test_step_size_never_rises():
    for gamma_decay_visits in (None, 1, 5, 40):
        gamma = step_size(torch.arange(1, 60), 0.1, gamma_decay_visits)
        assert (gamma.diff() <= 1e-7).all()
        assert gamma.min() >= 0.1 - 1e-7


def test_equal_rows_do_not_depend_on_their_order():
    # Bit for bit: runs that shuffle within the batch must not drift apart.
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        rows = torch.randint(NUM_ROWS, (16,), generator=generator)
        log_g = 3 * torch.randn(16, generator=generator)
        order = torch.randperm(16, generator=generator)
        table, permuted = make_table(dtype=torch.float32), make_table(dtype=torch.float32)
        returned = table(rows, log_g)
        assert torch.equal(permuted(rows[order], log_g[order]), returned[order])
        assert_unchanged(permuted, stored(table))


@pytest.mark.parametrize("mode", ["eval", "no_grad", "inference"])
def test_looking_up_writes_nothing(mode):
    table = make_table()
    table(torch.tensor([0, 2]), torch.tensor([1.0, 2.0], dtype=torch.float64))
    before = stored(table)
    rows, log_g = torch.tensor([2, 3, 0]), torch.tensor([7.0, 8.0, 9.0], dtype=torch.float64)
    if mode == "eval":
        log_u = table.eval()(rows, log_g)
    else:
        with torch.no_grad() if mode == "no_grad" else torch.inference_mode():
            log_u = table(rows, log_g)
    # Row 3 was never visited: its own estimate is the best there is.
    assert log_u.tolist() == [2.0, 8.0, 1.0]
    assert_unchanged(table, before)


def test_unvisited_equal_rows_fall_back_on_their_mean():
    log_g = torch.tensor([1.0, 3.0], dtype=torch.float64)
    log_u = make_table().eval()(torch.tensor([4, 4]), log_g)
    assert log_u.exp().tolist() == pytest.approx([log_g.exp().mean().item()] * 2)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("seen", [False, True])
def test_what_is_not_finite_is_never_written(seen, value):
    table = make_table()
    if seen:
        table(torch.tensor([1]), torch.tensor([0.5], dtype=torch.float64))
    log_u, visits = stored(table)
    table(torch.tensor([1, 2]), torch.tensor([value, 2.0], dtype=torch.float64))
    assert table.log_u[1] == log_u[1]
    assert table.visits[1] == visits[1]
    # Its neighbour in the batch is not held back.
    assert table.log_u[2] == 2.0
    assert table.visits[2] == 1


@pytest.mark.parametrize("bad", [-1, NUM_ROWS, NUM_ROWS + 1])
def test_ids_outside_raise_on_the_host(bad):
    with pytest.raises(IndexError, match=f"{bad} is outside"):
        make_table().resolve(torch.tensor([0, bad, 1]), CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64, torch.bool])
def test_ids_are_integers(dtype):
    with pytest.raises(TypeError, match="must be integers"):
        make_table().resolve(torch.ones(2, dtype=dtype), CPU)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_ids_of_any_integer_type(dtype):
    rows = make_table().resolve(torch.tensor([5, 0], dtype=dtype), CPU)
    assert rows.dtype == torch.int64
    assert rows.tolist() == [5, 0]


@pytest.mark.usefixtures("ids_on_accelerator")
def test_invalid_ids_on_an_accelerator_touch_no_row():
    table, clean = make_table(), make_table()
    ids = torch.tensor([0, -1, NUM_ROWS, 3, 10**9])
    log_g = torch.arange(5, dtype=torch.float64)
    table(table.resolve(ids, CPU), log_g)
    valid = torch.tensor([0, 3])
    clean(clean.resolve(ids[valid], CPU), log_g[valid])
    assert torch.equal(table.log_u[:NUM_ROWS], clean.log_u[:NUM_ROWS])
    assert torch.equal(table.visits[:NUM_ROWS], clean.visits[:NUM_ROWS])
    clean.raise_for_invalid_ids()
    with pytest.raises(IndexError, match=rf"3 sample ids were outside \[0, {NUM_ROWS}\)"):
        table.raise_for_invalid_ids()
    table.raise_for_invalid_ids()  # reported once


@pytest.mark.usefixtures("ids_on_accelerator")
def test_saving_reports_invalid_ids():
    table = make_table()
    table.resolve(torch.tensor([-1]), CPU)
    with pytest.raises(IndexError, match="1 sample ids"):
        table.state_dict()
    assert set(table.state_dict()) == {"table"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "cast",
    [
        lambda module: module.half(),
        lambda module: module.bfloat16(),
        lambda module: module.double(),
        lambda module: module.to(torch.float16),
        lambda module: module.to("cpu", torch.bfloat16),
    ],
)
def test_casts_leave_the_table_alone(cast, dtype):
    table = make_table(dtype=dtype)
    for rows, log_g in random_visits(steps=5):
        table(rows, log_g)
    before = stored(table)
    module = cast(torch.nn.Sequential(torch.nn.Linear(2, 2), table))
    assert module[1].log_u.dtype == dtype
    assert_unchanged(module[1], before)


def test_returned_value_is_not_rounded_to_the_table():
    table = make_table(gamma_min=1.0, dtype=torch.float32)
    log_g = torch.tensor([1 / 3], dtype=torch.float64)
    assert table(torch.tensor([0]), log_g).tolist() == log_g.tolist()
    assert table.log_u.dtype == torch.float32
    assert table.log_u[0] == log_g.float()


def test_no_gradient_flows_through_the_table():
    log_g = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([0, 1])
    assert not make_table()(rows, log_g).requires_grad
    assert not InBatchNormalizer()(rows, log_g).requires_grad


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_rows": 0, "gamma_min": 0.1}, "at least one row"),
        ({"num_rows": 5, "gamma_min": 0.0}, "gamma_min"),
        ({"num_rows": 5, "gamma_min": 1.1}, "gamma_min"),
        ({"num_rows": 5, "gamma_min": math.nan}, "gamma_min"),
        ({"num_rows": 5, "gamma_min": 0.1, "gamma_decay_visits": 0}, "gamma_decay_visits"),
    ],
)
def test_wrong_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        NormalizerTable(**arguments)
