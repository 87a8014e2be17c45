"""The averaged encoder against an explicit loop, and that nothing but the average moves it."""

import copy

import pytest
import torch
from torch import nn

from sogclr import MoCoLoss
from sogclr.models.encoders import ContrastiveModel, build_projector
from sogclr.models.momentum import MomentumModel
from sogclr.planning.recipe import choose_recipe
from sogclr.training.optimizer import build_optimizer


def make(momentum=0.9, primed=True):
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 8)
    )
    model = MomentumModel(ContrastiveModel(encoder, build_projector(8, 5)), momentum)
    if primed:
        model.prime(images(16, seed=9))
    return model.train()


def images(size, seed=0):
    return torch.randn(size, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) + 1


def key_state(model):
    return {k.removeprefix("key.module."): v for k, v in model.state_dict().items() if "key." in k}


def test_the_key_encoder_is_the_average_of_all_states():
    model = make()
    optimizer = torch.optim.SGD(model.query.parameters(), lr=0.1)
    expected = copy.deepcopy(model.query.state_dict())
    for step in range(5):
        features, queries, _ = model(images(8, seed=step))
        optimizer.zero_grad()
        (queries.square().sum() + features.sum()).backward()
        optimizer.step()
        model.update()
        for name, value in model.query.state_dict().items():
            if value.is_floating_point():
                expected[name] = 0.9 * expected[name] + 0.1 * value
            else:
                expected[name] = value.clone()
    torch.testing.assert_close(key_state(model), expected)
    assert any("running_var" in name for name in expected)


def test_a_key_depends_on_its_image_alone_and_leaves_no_trace():
    model, x = make(), images(6)
    before = copy.deepcopy(key_state(model))
    together = model(x)[2]
    alone = torch.cat([model(torch.cat([x[i : i + 1], images(3, seed=i + 1)]))[2][:1]
                       for i in range(6)])  # fmt: skip
    torch.testing.assert_close(together, alone)
    assert all(torch.equal(value, before[name]) for name, value in key_state(model).items())
    assert not any(module.training for module in model.key.modules())
    assert all(module.training for module in model.query.modules())


def test_keys_have_no_graph_and_their_encoder_no_gradient():
    model, loss = make(), MoCoLoss(32, 5)
    for step in range(2):
        _, queries, keys = model(images(8, seed=step))
        assert not keys.requires_grad
        loss(*queries.chunk(2), *keys.chunk(2), torch.arange(4) + 4 * step).backward()
    assert all(p.grad is None for p in model.key.parameters())
    assert all(p.grad is not None for p in model.query.parameters())


def test_a_step_reads_nothing_back():
    """On the meta device there is nothing to read: a step that waited for a value would raise."""
    model = make().to("meta")
    _, queries, _ = model(images(8).to("meta"))
    queries.sum().backward()
    model.update()


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw"])
@pytest.mark.parametrize("decay", [None, 0.0])
def test_no_optimizer_takes_up_the_key_encoder(name, decay):
    model = make()
    optimizer = build_optimizer(model, MoCoLoss(8, 5), choose_recipe(name, 64, None, decay))
    taken = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert taken == {id(p) for p in model.query.parameters()}


def test_primed_statistics_are_those_of_the_batch():
    x = images(16, seed=9)
    model = make(momentum=0.5)
    norm = model.key.module.encoder[1]
    seen = model.query.encoder[0](x)
    torch.testing.assert_close(norm.running_mean, seen.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(norm.running_var, seen.var(dim=(0, 2, 3)))
    # In eval mode the primed encoder normalizes that batch as training does.
    keys, trained = model.key(x)[1], model.query(x)[1]
    torch.testing.assert_close(keys, trained, rtol=0.05, atol=0.05)
    assert norm.momentum == 0.1
    assert model.query.training


def test_without_batch_norm_priming_changes_nothing():
    torch.manual_seed(0)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 8))
    model = MomentumModel(ContrastiveModel(flat, nn.Linear(8, 5)), 0.9)
    before = copy.deepcopy(model.state_dict())
    model.prime(images(4))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
