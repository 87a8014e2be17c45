"""Encoders without batch statistics: an image's features do not depend on the other images."""

import pytest
import torch
from torch import nn

from sogclr.models.encoders import EncoderSpec, build_encoder, build_projector, rebuild_encoder
from sogclr.models.norms import normalize_by_groups

NAMES = ["small", "resnet18", "resnet50", "efficientnet_b0", "regnety_002", "mobilenetv3_small_050"]


def drop_of_others(model, x):
    """The largest change of the first outputs when the other inputs change."""
    model.train()
    torch.manual_seed(0)
    one = model(x)[:2]
    torch.manual_seed(0)
    other = model(torch.cat([x[:2], 3 * x[2:] + 1]))[:2]
    return float((one - other).detach().abs().max() / one.detach().abs().max())


@pytest.mark.parametrize("name", NAMES)
def test_features_depend_on_their_own_image_alone(name):
    x = torch.randn(6, 3, 32, 32)
    coupled, _ = build_encoder(name, 32)
    free, spec = build_encoder(name, 32, norm="group")
    assert drop_of_others(coupled, x) > 1e-3
    assert drop_of_others(free, x) < 1e-5
    again = rebuild_encoder(EncoderSpec.from_dict(spec.as_dict()))
    again.load_state_dict(free.state_dict())
    free.eval(), again.eval()
    torch.testing.assert_close(again(x), free(x))


@pytest.mark.parametrize("name", ["small", "resnet18", "efficientnet_b0"])
def test_scale_and_shift_of_the_channels_stay(name):
    before, _ = build_encoder(name, 32)
    layers = [each for each in before.modules() if isinstance(each, nn.BatchNorm2d)]
    weights = [layer.weight for layer in layers]
    normalize_by_groups(before)
    after = [each.weight for each in before.modules() if isinstance(each, nn.GroupNorm)]
    assert len(after) == len(weights)
    assert all(a is b for a, b in zip(after, weights, strict=True))


@pytest.mark.parametrize("channels", [1, 6, 12, 16, 40, 64, 96, 2048])
def test_any_number_of_channels_is_cut_into_groups(channels):
    layer = normalize_by_groups(nn.Sequential(nn.BatchNorm2d(channels)))[0]
    assert isinstance(layer, nn.GroupNorm)
    assert layer(torch.randn(2, channels, 4, 4)).shape == (2, channels, 4, 4)
    assert channels < 16 or 1 < layer.num_groups <= 32


@pytest.mark.parametrize(("norm", "coupled"), [("batch", True), ("group", False)])
def test_the_projector(norm, coupled):
    change = drop_of_others(build_projector(16, norm=norm), torch.randn(6, 16))
    assert (change > 1e-3) == coupled
    assert coupled or change < 1e-5


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.SyncBatchNorm])
def test_a_layer_by_itself_and_one_of_several_processes(kind):
    for module in (kind(16), nn.Sequential(nn.Conv2d(3, 16, 1), kind(16))):
        replaced = normalize_by_groups(module)
        assert not any(
            isinstance(each, nn.modules.batchnorm._NormBase) for each in replaced.modules()
        )
