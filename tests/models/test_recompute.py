"""Blocks that are computed twice give the same gradients and statistics, from less memory."""

import copy

import pytest
import timm
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from sogclr import UserError
from sogclr.models.recompute import recompute_blocks
from sogclr.models.small import SmallEncoder


def build(name):
    torch.manual_seed(0)
    if name == "small":
        return SmallEncoder()
    if name == "transformer":
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.5, batch_first=True)
        return nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    return timm.create_model(name, num_classes=0, drop_path_rate=0.3)


def train_once(model, x):
    """Return the numbers of a forward pass that are kept, the gradients, and the buffers."""
    kept = 0

    def keep(tensor):
        nonlocal kept
        kept += tensor.numel()
        return tensor

    torch.manual_seed(1)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(x).square().mean()
    loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    return kept, gradients, dict(model.named_buffers())


@pytest.mark.parametrize("name", ["small", "resnet18", "test_vit", "test_convnext", "transformer"])
def test_gradients_and_statistics_stay_and_memory_falls(name, capsys):
    plain = build(name).train()
    saving = copy.deepcopy(plain)
    recompute_blocks(saving)
    assert "activations" in capsys.readouterr().err
    x = torch.randn(4, 7, 16) if name == "transformer" else torch.randn(4, 3, 160, 160)
    kept, gradients, buffers = train_once(plain, x)
    kept_less, same_gradients, same_buffers = train_once(saving, x)
    assert kept_less < kept / 2
    assert gradients.keys() == same_gradients.keys()
    for key, gradient in gradients.items():
        assert torch.equal(gradient, same_gradients[key]), key
    for key, buffer in buffers.items():
        assert torch.equal(buffer, same_buffers[key]), key
    assert plain.state_dict().keys() == saving.state_dict().keys()


def test_a_copy_of_a_model_computes_with_its_own_weights():
    """MoCo copies the encoder after its blocks were changed."""
    model = SmallEncoder().eval()
    recompute_blocks(model)
    x = torch.randn(2, 3, 16, 16)
    before = model(x)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            weight.zero_()
    assert torch.equal(model(x), before)
    assert not torch.equal(other(x), before)


def test_a_model_without_blocks_is_refused():
    with pytest.raises(UserError, match="--checkpoint-activations: has no effect"):
        recompute_blocks(nn.Sequential(nn.Flatten(), nn.Linear(4, 4)))
