"""One normalizer for all samples, against loops over anchors and in linear space."""

import math

import pytest
import torch
from helpers.loop_losses import anchors, features

from sogclr import GlobalClipLoss, GlobalContrastiveLoss, IndividualTemperature
from sogclr.losses.normalizer_scalar import ScalarNormalizer

DOUBLE = {"dtype": torch.float64}
TAU = 0.4


def scalar(num_rows=None, rate=0.3):
    return ScalarNormalizer(num_rows, rate=rate, **DOUBLE)


def batches(steps, size=5):
    draw = torch.Generator().manual_seed(0)
    for _ in range(steps):
        yield 3 * torch.randn(size, generator=draw, **DOUBLE)


@pytest.mark.parametrize("rate", [1e-9, 0.01, 0.3, 1.0])
def test_the_recursion_in_linear_space(rate):
    normalizer, u = scalar(rate=rate), None
    for step, log_g in enumerate(batches(40), start=1):
        mean = sum(math.exp(x) for x in log_g.tolist()) / len(log_g)
        expected = math.log(mean if u is None else u)
        peeked = normalizer.peek(torch.arange(5), log_g)
        found = normalizer(torch.arange(5), log_g)
        assert found.tolist() == peeked.tolist() == pytest.approx([expected] * 5, rel=1e-11)
        share = max(rate, 1 / step)
        u = mean if u is None else (1 - share) * u + share * mean
    assert math.exp(normalizer.state[0]) == pytest.approx(u, rel=1e-11)
    assert normalizer.state[1] == 40


@pytest.mark.parametrize("kind", [GlobalContrastiveLoss, GlobalClipLoss])
def test_value_and_gradient_are_those_of_the_published_loss(kind):
    """-s/tau of the positive, plus the mean of exp(s/tau) of the negatives over a constant u."""
    loss, kept = kind(8, temperature=TAU, normalizer=scalar), {}
    for step in range(4):
        pair, value, means = features(seed=step), 0.0, {}
        for side, _, positive, negatives in anchors(kind, *pair, range(5)):
            side = side if kind is GlobalClipLoss else 0  # both views share the scalar
            mean = sum((s / TAU).exp() for s in negatives) / len(negatives)
            means.setdefault(side, []).append((positive, mean))
        for side, terms in means.items():
            batch = sum(mean.item() for _, mean in terms) / len(terms)
            u = kept.get(side, batch)
            value += sum(mean / u - p / TAU + math.log(u) - mean.item() / u for p, mean in terms)
            share = max(0.3, 1 / (step + 1))
            kept[side] = (1 - share) * u + share * batch
        value = value / 10
        found = loss(*pair, torch.arange(5))
        torch.testing.assert_close(found, value)
        expected = torch.autograd.grad(value, pair)
        torch.testing.assert_close(torch.autograd.grad(found, pair), expected)


@pytest.mark.parametrize("kind", [GlobalContrastiveLoss, GlobalClipLoss])
def test_batches_need_no_ids(kind):
    named, nameless = (kind(8, normalizer=scalar, **DOUBLE) for _ in range(2))
    for step in range(3):
        pair = features(seed=step)
        assert torch.equal(nameless(*pair), named(*pair, torch.arange(5)))
    torch.testing.assert_close(nameless.state_dict(), named.state_dict())


KEPT = {
    "a table": {},
    "a memory": {"normalizer": scalar, "memory_size": 4},
    "temperatures": {"normalizer": scalar, "temperature": IndividualTemperature(rho=1.0)},
}


@pytest.mark.parametrize("settings", KEPT.values(), ids=KEPT)
@pytest.mark.parametrize("kind", [GlobalContrastiveLoss, GlobalClipLoss])
def test_what_is_kept_per_sample_needs_ids(kind, settings):
    with pytest.raises(TypeError, match="keeps state per sample: pass `index`"):
        kind(8, **settings)(*features())


@pytest.mark.parametrize("mode", ["eval", "no_grad", "inference"])
def test_looking_up_writes_nothing(mode):
    normalizer, log_g = scalar(), torch.tensor([1.0, 3.0], **DOUBLE)
    if mode == "eval":
        normalizer.eval()
    with {"no_grad": torch.no_grad, "inference": torch.inference_mode}.get(
        mode, torch.enable_grad
    )():
        # Before the first batch its own mean is the best there is.
        found = normalizer(torch.arange(2), log_g).exp()
    assert found.tolist() == pytest.approx([log_g.exp().mean().item()] * 2)
    assert normalizer.state.tolist() == [-math.inf, 0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_never_written(value):
    normalizer, rows = scalar(), torch.arange(2)
    normalizer(rows, torch.tensor([value, value], **DOUBLE))
    assert normalizer.state.tolist() == [-math.inf, 0]
    normalizer(rows, torch.tensor([value, 2.0], **DOUBLE))
    assert normalizer.state.tolist() == [2, 1]
    normalizer(rows, torch.tensor([value, value], **DOUBLE))
    assert normalizer.state.tolist() == [2, 1]


def test_large_logarithms_do_not_overflow():
    normalizer = scalar(rate=0.5)
    for shift in (900.0, 1000.0):
        normalizer(torch.arange(2), torch.tensor([shift, shift], **DOUBLE))
    assert normalizer.state[0] == pytest.approx(1000 - math.log(2))


@pytest.mark.parametrize("kind", [GlobalContrastiveLoss, GlobalClipLoss])
def test_a_loss_resumed_from_its_state_is_the_uninterrupted_one(kind):
    whole, first, resumed = (kind(8, normalizer=ScalarNormalizer) for _ in range(3))
    for step in range(3):
        pair = features(seed=step)
        whole(*pair), first(*pair)
    resumed.load_state_dict(first.state_dict())
    for step in range(3, 6):
        pair = features(seed=step)
        assert torch.equal(whole(*pair), resumed(*pair))


def test_casts_leave_the_scalar_alone():
    normalizer = ScalarNormalizer()
    normalizer(torch.arange(2), torch.tensor([1 / 3, 1 / 7]))
    before = normalizer.state.clone()
    assert torch.equal(torch.nn.Sequential(normalizer).half()[0].state, before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"rate": 0.0}, "rate"), ({"rate": math.nan}, "rate"), ({"dtype": torch.half}, "float64")],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        ScalarNormalizer(**settings)
