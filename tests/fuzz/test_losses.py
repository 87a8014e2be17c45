"""Calls of the losses: the value of plain loops, or an error of our own that changes nothing."""

import copy
import traceback
from pathlib import Path

import pytest
import torch
from helpers.every_loss import LOSSES, WIDTH
from helpers.fuzzing import require_one_line, run_cases
from hypothesis import strategies as st

import sogclr

ROOT = Path(sogclr.__file__).parent
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = ("int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64")
ROWS = 9  # of the tables of LOSSES
SHAPES = [(), (1,), (0, WIDTH), (4,), (4, 1), (4, 3), (3, WIDTH), (4, WIDTH, 1), (1, 4, WIDTH)]
SMALLEST_TEMPERATURE = 0.05
# From lengths of 1e19 on, float32 overflows, as in torch.nn.functional.normalize.
VALUES = (0.0, 1e-30, 1e18, -1.0, float("inf"), float("-inf"), float("nan"))


@st.composite
def draw_features(draw, count):
    """Features of one side, mostly sound."""
    seed, kind = draw(st.integers(0, 99)), draw(st.sampled_from(FLOATS))
    generator = torch.Generator().manual_seed(seed)
    sound = torch.randn(count, WIDTH, generator=generator).to(kind)
    change = draw(st.integers(0, 15))
    if change == 0:
        return torch.zeros(draw(st.sampled_from(SHAPES)), dtype=kind)
    if change == 1:
        other = draw(st.sampled_from([torch.int64, torch.bool, torch.complex64, torch.uint8]))
        return sound.to(other)
    if change == 2:
        return draw(st.sampled_from([sound.tolist(), sound.float().numpy(), None, "features"]))
    if change == 3:  # rows of other strides
        return torch.randn(WIDTH, count, generator=generator).to(kind).T
    if change == 4:
        return sound[:1].expand(count, WIDTH)
    if change == 5:
        sound[draw(st.integers(0, count - 1)), draw(st.integers(0, WIDTH - 1))] = draw(
            st.sampled_from(VALUES)
        )
    if change == 6:
        sound[draw(st.integers(0, count - 1))] = draw(st.sampled_from(VALUES))
    return sound


@st.composite
def draw_ids(draw, count):
    """Ids of a batch, mostly sound."""
    change = draw(st.integers(0, 11))
    rows = draw(st.lists(st.integers(0, ROWS - 1), min_size=count, max_size=count))
    kind = getattr(torch, draw(st.sampled_from(INTEGERS)))
    if change == 0:
        wrong = [-1, ROWS, 2**31, 2**40, 2**62, -(2**63)]
        rows[draw(st.integers(0, count - 1))] = draw(st.sampled_from(wrong))
        return torch.tensor(rows)
    if change == 1:
        return torch.zeros(draw(st.sampled_from(SHAPES)), dtype=kind)
    if change == 2:
        return torch.tensor(rows).to(draw(st.sampled_from([*FLOATS, torch.bool, torch.complex64])))
    if change == 3:
        return draw(st.sampled_from([rows, tuple(rows), torch.tensor(rows).numpy(), "ids", 3]))
    if change == 4:
        return None
    if change == 5:
        return torch.tensor(rows + rows).to(kind)[::2]
    return torch.tensor(rows).to(kind)


@st.composite
def draw_calls(draw):
    """Arguments of a call: which loss, both sides, ids, and more ids by keyword."""
    name, count = draw(st.sampled_from(sorted(LOSSES))), draw(st.integers(1, 6))
    sides = [draw(draw_features(count)) for _ in range(2)]
    index, more = draw(draw_ids(count)), {}
    for option in ("group", "index_b", "sample_key", "views"):
        if draw(st.integers(0, 9)) == 0:
            more[option] = draw(draw_ids(count))
    return name, sides, index, more


def state_of(loss):
    return copy.deepcopy(loss.state_dict())


def is_raised_by_us(error):
    """Whether the package itself refused the arguments, or Python their names."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    own = ROOT in Path(frame.filename).parents and frame.line.startswith("raise")
    return own or "unexpected keyword argument" in str(error) or "missing 1 required" in str(error)


def plain(x, kind=torch.float64):
    """The same numbers in a tensor of their own, of the type that is checked against."""
    return x.to(kind).contiguous().clone() if isinstance(x, torch.Tensor) else x


def compute(loss, sides, index, more):
    """Value and gradients of one call in training."""
    leaves = [
        side.detach().clone().requires_grad_()
        if isinstance(side, torch.Tensor) and side.is_floating_point()
        else side
        for side in sides
    ]
    keys = [each.detach() if isinstance(each, torch.Tensor) else each for each in leaves[::-1]]
    value = loss(*leaves, *(keys if isinstance(loss, sogclr.MoCoLoss) else ()), index, **more)
    if value.requires_grad:  # integers have no gradient
        value.backward()
    return value.detach(), [leaf.grad for leaf in leaves if isinstance(leaf, torch.Tensor)]


def check(arguments):
    name, sides, index, more = arguments
    torch.manual_seed(0)
    loss, reference = LOSSES[name](), LOSSES[name]()
    before = state_of(loss)
    try:
        value, gradients = compute(loss, sides, index, more)
    except Exception as error:
        if not is_raised_by_us(error):
            raise
        require_one_line(str(error))
        torch.testing.assert_close(loss.state_dict(), before, rtol=0, atol=0, equal_nan=True)
        return "refused"
    assert value.shape == ()
    if not all(side.double().isfinite().all() for side in sides):
        # What is no number is seen in the value, and stays out of what is kept of the samples.
        assert not value.isfinite() or all(g is None or g.isfinite().all() for g in gradients)
        return "of features that are not finite"
    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)
    # The same numbers in other types give the same value.
    ids = plain(index, torch.int64), {key: plain(x, torch.int64) for key, x in more.items()}
    same, expected = compute(reference, [plain(side) for side in sides], *ids)
    torch.testing.assert_close(value.double(), same.double(), rtol=1e-4, atol=1e-4)
    exact = all(side.dtype in (torch.float32, torch.float64) for side in sides)
    for side, found, right in zip(sides, gradients, expected, strict=True):
        if found is not None and right is not None:
            # Errors are relative to the gradient by the positive, which others may cancel.
            length = side.double().norm(dim=1, keepdim=True).clamp(min=1e-12)
            errors = (found.double() - right).abs() * length * SMALLEST_TEMPERATURE
            assert errors.max() < (1e-4 if exact else 1e-2)
    return "computed"


@pytest.mark.parametrize("cases", [60, pytest.param(1000, marks=pytest.mark.fuzz)])
def test_calls_of_losses(counts, cases):
    counts["calls of losses"] = ends = run_cases(check, cases, arguments=draw_calls())
    assert len(ends) == 3
