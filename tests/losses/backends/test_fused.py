"""The kernels against a dense float64 reference; on a CPU by Triton's interpreter.

Products of half-precision numbers are exact in float32, so sums are float32's. What a similarity
is pulled with is rounded to half precision before it is multiplied with features; of bfloat16
features the gradient is, too. Each is off by less than one unit in the last of 8 bits (11 for
float16), the interpreter's way of rounding included, and entries differ in how much.
"""

import copy
import math
from functools import reduce
from unittest.mock import patch

import pytest
import torch
from torch.nn.functional import normalize

from sogclr import (
    ClipLoss,
    GlobalClipLoss,
    GlobalContrastiveLoss,
    IndividualTemperature,
    LearnedTemperature,
    NTXentLoss,
)
from sogclr.losses.backends import choose
from sogclr.losses.backends.similarities import needs_shift

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROUNDING = {torch.bfloat16: 2**-7, torch.float16: 2**-10}
# One tile; several, the last ones shorter, and so the last step over a width.
SHAPES = (
    [(130, 40, None), (64, 64, None), (300, 65, 128)]
    if DEVICE == "cuda"
    else [(75, 20, None), (32, 32, None), (75, 33, 64)]
)
dtypes = pytest.mark.parametrize("dtype", ROUNDING, ids=str)


@pytest.fixture(autouse=True)
def smaller_tiles(monkeypatch):
    """The interpreter would take a minute for those of a GPU."""
    from sogclr.losses.backends import fused_launch as launches

    if DEVICE == "cpu":
        for name, size in {"ROWS": 64, "COLUMNS": 32, "DEPTH": 32, "GROUP": 2}.items():
            monkeypatch.setattr(launches, name, size)


def features(size, width, dtype):
    """Features of rows and of their partners, of very different lengths."""
    generator = torch.Generator().manual_seed(size)
    x, y = torch.randn(2, size, width, generator=generator)
    y = (x + y) * torch.rand(size, 1, generator=generator).add(0.2)
    return [side.to(DEVICE, dtype) for side in (x, y)]


def some_ids(size, lists):
    generator = torch.Generator().manual_seed(lists)
    return [torch.randint(size // 2, (size,), generator=generator).to(DEVICE) for _ in range(lists)]


def lengths_of(sides):
    return tuple(side.detach().float().norm(dim=1) for side in sides)


def dense(pair, ids, tau, weight):
    """Compute sums, counts, gradients of weight tau log_sum, and means; `tau` is `(S, M)`."""
    x, y = leaves = [side.double().requires_grad_() for side in pair]
    x, y = normalize(x, dim=1), normalize(y, dim=1)
    absent = reduce(torch.logical_or, [own[:, None] == own[None, :] for own in ids])
    cosines = [x @ y.T, y @ x.T] if len(tau) == 2 else [x @ x.T]
    logits = [s / t[:, None] for s, t in zip(cosines, tau, strict=True)]
    kept = [each.masked_fill(absent, -math.inf) for each in logits]
    log_sum = torch.stack([each.logsumexp(dim=1) for each in kept])
    some = log_sum > -math.inf
    total = (weight * tau * torch.where(some, log_sum, 0))[some].sum()
    gradients = torch.autograd.grad(total, leaves[: len(tau)])
    means = [(k.softmax(1).nan_to_num() * s).sum(dim=1) for k, s in zip(kept, logits, strict=True)]
    return log_sum, (~absent).sum(dim=1), gradients, torch.stack(means)


TAUS = {
    "one exponential": lambda shape: (0.1, 0.1),
    "on the device": lambda shape: (torch.tensor(0.05, device=DEVICE), 0.05),
    "shifted": lambda shape: (0.008, 0.008),
    "one each": lambda shape: (torch.linspace(0.02, 0.5, shape[1]).to(DEVICE).expand(shape), 0.02),
}


@dtypes
@pytest.mark.parametrize("temperature", TAUS)
@pytest.mark.parametrize("sides", [1, 2], ids=["two views", "pairs"])
@pytest.mark.parametrize(("size", "width", "strip"), SHAPES)
def test_sums_and_gradients_are_the_dense_ones(
    size, width, strip, sides, temperature, dtype, monkeypatch
):
    from sogclr.losses.backends import fused

    if strip is not None:
        monkeypatch.setattr(fused, "SUMMED", strip)
        monkeypatch.setattr(fused, "STRIP", strip * size)
    pair, ids = features(size, width, dtype), some_ids(size, sides)
    ids[0][:3] = 0
    tau, minimum = TAUS[temperature]((sides, size))
    weight = torch.rand(sides, size, generator=torch.Generator().manual_seed(1)).to(DEVICE) / size

    shift = needs_shift(isinstance(tau, torch.Tensor) and tau.ndim > 0, minimum, torch.float32)
    leaves = [side.float().requires_grad_() for side in pair[:sides]]
    backend = fused.Fused(tuple(pair[:sides]), lengths_of(leaves), ids, shift)
    log_sum, count, mean = backend.sums(tau, means=True)
    full = torch.as_tensor(tau, dtype=torch.float64, device=DEVICE).expand(sides, size)
    by_units = backend.gradients(log_sum, weight * (log_sum > -math.inf))
    found = torch.autograd.grad([normalize(leaf, dim=1) for leaf in leaves], leaves, [*by_units])

    sums, numbers, gradients, means = dense(pair, ids, full, weight)
    torch.testing.assert_close(log_sum.double(), sums, rtol=1e-6, atol=1e-6 / minimum)
    assert (count == numbers).all()
    torch.testing.assert_close(mean.double(), means, rtol=1e-5, atol=1e-5 / minimum)
    for own, expected in zip(found, gradients, strict=True):
        assert (own - expected).norm() < ROUNDING[dtype] * expected.norm()


@dtypes
@pytest.mark.parametrize("sides", [1, 2], ids=["two views", "pairs"])
def test_one_sample_alone_has_no_negatives(sides, dtype):
    from sogclr.losses.backends import fused

    for tau in (0.1, 0.001):
        pair = features(5, 16, dtype)
        ids = [torch.zeros(5, dtype=torch.int64, device=DEVICE)]
        shift = needs_shift(False, tau, torch.float32)
        backend = fused.Fused(tuple(pair[:sides]), lengths_of(pair[:sides]), ids, shift)
        log_sum, count, mean = backend.sums(tau, means=True)
        assert (log_sum == -math.inf).all()
        assert (count == 0).all()
        assert (mean == 0).all()
        for gradient in backend.gradients(log_sum, torch.zeros_like(log_sum)):
            assert (gradient == 0).all()


LOSSES = {
    "two views": lambda: GlobalContrastiveLoss(100),
    "SimCLR": NTXentLoss,
    "learned": lambda: GlobalContrastiveLoss(100, temperature=LearnedTemperature()),
    "pairs": lambda: GlobalClipLoss(100),
    "individual": lambda: GlobalClipLoss(100, temperature=IndividualTemperature(rho=1.0)),
    "CLIP": lambda: ClipLoss(LearnedTemperature()),
    "two views, keys": lambda: GlobalContrastiveLoss(100),
    "pairs, keys": lambda: GlobalClipLoss(100),
}


@dtypes
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_that_of_other_backends(name, dtype):
    pair, told = features(30, 32, dtype), {"index": torch.arange(30) % 26}
    if "keys" in name:  # samples 0 and 28 are one, 2 and 28 share a row
        told["sample_key"] = torch.arange(30) % 28 * 2**40
    fused = LOSSES[name]().to(DEVICE)
    tiles = copy.deepcopy(fused)
    for _ in range(2):
        ours = [side.clone().requires_grad_() for side in pair]
        with patch.object(choose, "runs_kernels", lambda *_: True):
            value = fused(*ours, **told)
        gradients = torch.autograd.grad(value, [*ours, *fused.parameters()])
        wide = [side.double().requires_grad_() for side in pair]
        expected = tiles(*wide, **told)
        exact = torch.autograd.grad(expected, [*wide, *tiles.parameters()])
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
        for own, other in zip(gradients, exact, strict=True):
            assert own.dtype == (dtype if own.ndim else torch.float32)
            assert (own - other).norm() < ROUNDING[dtype] * other.norm()
    torch.testing.assert_close(fused.state_dict(), tiles.state_dict(), rtol=1e-4, atol=1e-5)


def test_only_half_precision_on_a_gpu_is_served():
    half = torch.zeros(4, 8, dtype=torch.bfloat16)
    assert not choose.runs_kernels(half, half)
    if DEVICE == "cuda":
        half = half.cuda()
        assert choose.runs_kernels(half, half)
        assert not choose.runs_kernels(half, half.half())
        assert not choose.runs_kernels(half.float(), half.float())
