"""The loss of held-out samples: that of the batch, which a collapsed encoder does not minimize."""

import copy

import pytest
import torch
from torch.nn.functional import normalize

from sogclr import (
    ClipLoss,
    DecoupledClipLoss,
    DecoupledContrastiveLoss,
    GlobalClipLoss,
    GlobalContrastiveLoss,
    IndividualTemperature,
    LearnedTemperature,
    MoCoLoss,
    NTXentLoss,
    SigLipLoss,
    validation_loss,
)

SAMPLES, HELD_OUT, WIDTH = 128, 32, 16
LOSSES = {
    "sogclr": lambda **more: GlobalContrastiveLoss(SAMPLES, temperature=0.1, **more),
    "candidates": lambda **more: GlobalContrastiveLoss(SAMPLES, effective_negatives=50.0, **more),
    "memory": lambda **more: GlobalContrastiveLoss(SAMPLES, memory_size=20, **more),
    "learned": lambda **more: GlobalContrastiveLoss(
        SAMPLES, temperature=LearnedTemperature(0.1, rho=1.0), **more
    ),
    "individual": lambda **more: GlobalClipLoss(
        SAMPLES, temperature=IndividualTemperature(0.1, rho=1.0), **more
    ),
    "pairs": lambda **more: GlobalClipLoss((SAMPLES, SAMPLES + 5), **more),
    "simclr": NTXentLoss,
    "dcl": DecoupledContrastiveLoss,
    "clip": ClipLoss,
    "dcl of pairs": DecoupledClipLoss,
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def views(x, noise):
    return [normalize(x + noise * torch.randn(x.shape), dim=1) for _ in range(2)]


def trained(name, **more):
    torch.manual_seed(0)
    loss, x = LOSSES[name](**more), normalize(torch.randn(SAMPLES, WIDTH), dim=1)
    for _ in range(4):
        for index in torch.randperm(SAMPLES).split(32):
            loss(*(view.requires_grad_() for view in views(x[index], 0.05)), index)
    return loss


def healthy_and_collapsed():
    healthy = normalize(torch.randn(HELD_OUT, WIDTH), dim=1)
    collapsed = normalize(torch.randn(1, WIDTH), dim=1).expand(HELD_OUT, WIDTH)
    return views(healthy, 0.08), views(collapsed, 0.001)


@pytest.mark.parametrize("scale", ["cross-entropy", "temperature"])
@every_loss
def test_a_collapsed_encoder_has_the_larger_loss(name, scale):
    loss = trained(name, scale=scale)
    healthy, collapsed = healthy_and_collapsed()
    values = [validation_loss(loss, *sides) for sides in (healthy, collapsed)]
    assert values[0] < values[1] - 0.05


@pytest.mark.parametrize("name", ["sogclr", "pairs"])
def test_the_loss_itself_prefers_the_collapsed_one(name):
    """Otherwise there would be no need of another function."""
    loss = trained(name).eval()
    healthy, collapsed = healthy_and_collapsed()
    with torch.no_grad():
        values = [loss(*sides, torch.arange(HELD_OUT)) for sides in (healthy, collapsed)]
    assert values[0] > values[1]


@every_loss
def test_nothing_changes_and_nothing_is_differentiated(name):
    loss = trained(name)
    before = copy.deepcopy(loss.state_dict())
    a, b = (side.requires_grad_() for side in healthy_and_collapsed()[0])
    value = validation_loss(loss, a, b, torch.arange(HELD_OUT) + SAMPLES)
    assert not value.requires_grad
    assert loss.training
    torch.testing.assert_close(loss.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("scale", ["cross-entropy", "temperature"])
@pytest.mark.parametrize("name", ["sogclr", "candidates", "individual", "pairs", "dcl"])
def test_of_samples_that_were_never_visited_it_is_the_loss_of_a_first_visit(name, scale):
    a, b = healthy_and_collapsed()[0]
    fresh = LOSSES[name](scale=scale).eval()
    index = torch.arange(HELD_OUT)
    expected = fresh(a, b, index)
    if name == "individual":  # rho is a term of the temperature alone
        expected = expected - (1.0 if scale == "cross-entropy" else 0.1)
    torch.testing.assert_close(validation_loss(fresh, a, b), expected)


def test_samples_of_equal_id_or_group_are_no_negatives():
    (a, b), index = healthy_and_collapsed()[0], torch.arange(HELD_OUT) // 2
    one, two = LOSSES["sogclr"](), LOSSES["pairs"]()
    expected = DecoupledClipLoss(0.05)(a, b, group=index)
    grouped = validation_loss(two, a, b, group=index)
    assert grouped != validation_loss(two, a, b)
    torch.testing.assert_close(grouped, validation_loss(two, a, b, index))
    torch.testing.assert_close(grouped + torch.log(torch.tensor(HELD_OUT - 2.0)), expected)
    assert validation_loss(one, a, b, index) != validation_loss(one, a, b)


def test_what_has_no_objective_of_the_batch_is_refused():
    a, b = healthy_and_collapsed()[0]
    for loss in (MoCoLoss(8, WIDTH), SigLipLoss(), torch.nn.Identity()):
        with pytest.raises(TypeError, match="no objective of the batch alone"):
            validation_loss(loss, a, b)
    with pytest.raises(ValueError, match="group is for losses of pairs"):
        validation_loss(LOSSES["sogclr"](), a, b, group=torch.arange(HELD_OUT))
