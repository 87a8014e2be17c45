"""A gradient penalty through a loss is an error, not a silent zero."""

import pytest
import torch
from helpers.every_loss import COUNT, LOSSES, call, features

penalties = pytest.mark.parametrize(
    "penalty", [torch.Tensor.sum, torch.Tensor.norm, lambda g: (g.norm(dim=1) - 1).square().mean()]
)


@penalties
@pytest.mark.parametrize("name", sorted(LOSSES.keys() - {"siglip"}))
def test_a_second_derivative_is_refused(name, penalty):
    weight = torch.eye(8).requires_grad_()
    a, b = (side @ weight for side in features())
    loss = LOSSES[name]()
    for _ in range(2):  # MoCo's first batch has no negatives
        value = call(loss, a, b, torch.arange(COUNT))
    (gradient,) = torch.autograd.grad(value, a, create_graph=True)
    assert gradient.requires_grad
    with pytest.raises(RuntimeError, match="first derivatives only"):
        penalty(gradient).backward()


def test_siglip_has_a_second_derivative():
    a, b = (side.double() for side in features())
    loss = LOSSES["siglip"]().double()
    assert torch.autograd.gradgradcheck(lambda x: loss(x, b), a.requires_grad_())


@pytest.mark.parametrize("name", LOSSES)
def test_the_first_derivative_is_the_same_with_a_graph(name):
    found = []
    for create_graph in (False, True):
        loss, (a, b) = LOSSES[name](), features()
        sides = a.requires_grad_(), b.requires_grad_()
        value = call(loss, *sides, torch.arange(COUNT))
        found.append(torch.autograd.grad(value, sides[:1], create_graph=create_graph)[0].detach())
    assert torch.equal(*found)
