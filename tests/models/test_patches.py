"""Every pixel has influence: image sizes are whole patches."""

import json

import numpy as np
import pytest
import timm
import torch
from torch import nn

import sogclr
from sogclr import UserError
from sogclr.data.images.arrays import ArraySource
from sogclr.models.encoders import build_encoder, width_of
from sogclr.models.patches import count_unseen, patch_named, patch_of, whole_patches
from sogclr.planning.images import plan_run
from sogclr.planning.settings_images import ImageSettings

PATCHES = {
    "vit_tiny_patch16_224": 16,
    "vit_small_patch14_dinov2": 14,
    "mixer_s16_224": 16,
    "swin_tiny_patch4_window7_224": 4,
    "xcit_nano_12_p16_224": 16,
    "pit_ti_224": 8,
    "tnt_s_patch16_224": 16,
    "visformer_tiny": 32,
    "levit_128s": 64,
    "pvt_v2_b0": 1,
    "resnet18": 1,
    "efficientnet_b0": 1,
    "small": 1,
}


def blind(encoder, size):
    """Return the share of pixels without influence."""
    for parameter in encoder.parameters():
        if not parameter.any():  # timm starts residual branches at zero
            nn.init.normal_(parameter, std=0.1)
    images = torch.randn(1, 3, size, size, requires_grad=True)
    encoder.eval()(images).square().sum().backward()
    return (images.grad.abs().sum(dim=(0, 1)) == 0).double().mean().item()


def images(side):
    return ArraySource(np.zeros((4, side, side, 3), np.uint8))


@pytest.mark.parametrize("name", PATCHES)
def test_patches_are_known_by_the_name(name):
    assert patch_named(name) == PATCHES[name]


@pytest.mark.parametrize(
    ("name", "side"),
    [(name, side) for name in list(PATCHES)[:3] for side in (9, 40, 100)]
    + [("xcit_nano_12_p16_224", 50), ("resnet18", 40), ("swin_tiny_patch4_window7_224", 30)]
    + [("tnt_s_patch16_224", 40), ("pit_ti_224", 45), ("visformer_tiny", 76), ("levit_128s", 100)]
    + [("pvt_v2_b0", 43)],
)
def test_the_planned_size_leaves_no_pixel_unseen(name, side):
    plan = plan_run(ImageSettings(encoder=name, batch_size=2), images(side), "cpu", 0)
    assert plan.image_size == whole_patches(side, PATCHES[name])
    assert (f"in whole patches of {PATCHES[name]} px" in str(plan.reasons)) == (PATCHES[name] > 1)
    encoder, spec = build_encoder(name, plan.image_size)
    assert spec.image_size == plan.image_size
    assert blind(encoder, plan.image_size) == 0


@pytest.mark.parametrize(
    ("name", "size", "nearest"),
    [
        ("pit_ti_224", 40 + 3, "40 or 48"),
        ("vit_tiny_patch16_224", 40, "32 or 48"),
        ("vit_small_patch14_dinov2", 64, "56 or 70"),
        ("mixer_s16_224", 9, "16"),
    ],
)
def test_another_size_is_refused_with_the_nearest(name, size, nearest):
    match = rf"--image-size: patches of .* leave .* of {size} px .*; give {nearest}, whole patches"
    with pytest.raises(UserError, match=match):
        build_encoder(name, size)


def test_pretrain_refuses_before_anything_is_written(make_folder, tmp_path):
    for size in (17, 24, 200):
        with pytest.raises(UserError, match="--image-size: patches of 16 px leave"):
            sogclr.pretrain(
                make_folder(), tmp_path / "run", encoder="vit_tiny_patch16_224", image_size=size
            )
    assert not (tmp_path / "run").exists()


class Patches(nn.Module):
    """A module of a user's own."""

    def __init__(self, padding=0):
        super().__init__()
        self.cut = nn.Conv2d(3, 8, 6, stride=6, padding=padding)

    def forward(self, images):
        return self.cut(images).mean(dim=(2, 3))


def test_a_module_of_ones_own_is_checked_too():
    assert width_of(Patches(), 12) == 8
    assert width_of(Patches(padding=3), 15) == 8
    with pytest.raises(UserError, match=r"the encoder leaves 1 of 16 px .* give 15"):
        width_of(Patches(padding=3), 16)
    assert patch_of(nn.Sequential(nn.Conv2d(3, 4, 3, stride=1), nn.MaxPool2d(2))) == 1
    with pytest.raises(UserError, match=r"patches of 6 px leave 4 of 16 px .* give 12 or 18"):
        width_of(Patches(), 16)


@pytest.mark.parametrize(
    ("name", "size", "unseen", "fitting"),
    [
        ("tnt_s_patch16_224", 40, 8, "32 or 48"),
        ("visformer_tiny", 76, 2, "64 or 96"),
        ("poolformer_s12", 130, 1, "129"),
        ("inception_v3", 80, 3, "77"),
    ],
)
def test_patches_that_are_cut_later_are_measured(name, size, unseen, fitting):
    encoder, _ = build_encoder(name, size)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    match = rf"leaves {unseen} of {size} px at the right and the lower edge unseen; give {fitting}$"
    with pytest.raises(UserError, match=f"^--image-size: the encoder {match}"):
        width_of(encoder, size)
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    for fit in map(int, fitting.split(" or ")):
        encoder, _ = build_encoder(name, fit)
        width_of(encoder, fit)
        assert blind(encoder, fit) == 0


class Later(nn.Sequential):
    """A convolution that sees all pixels, then patches of four places, two pixels apart."""

    def __init__(self):
        first = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU()
        super().__init__(*first, nn.Conv2d(8, 8, 4, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize(("size", "unseen"), [(16, 0), (17, 1), (18, 2), (22, 6), (23, 0)])
def test_unseen_pixels_are_counted(size, unseen):
    torch.manual_seed(0)
    assert count_unseen(Later().eval(), size) == unseen


def test_what_looks_blind_but_is_not_is_accepted():
    """The largest value alone, branches that start at zero, and features that are constant."""
    torch.manual_seed(0)
    largest = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten())
    off = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.LazyLinear(4))
    off(torch.zeros(1, 3, 32, 32))
    nn.init.zeros_(off[-1].weight)
    constant = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    constant.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
    for encoder in (largest, off, constant):
        width_of(encoder, 32)


def test_the_size_of_published_weights_is_accepted():
    published = timm.create_model("vit_tiny_patch16_224", img_size=384, num_classes=0)
    published.pretrained_cfg = {**published.pretrained_cfg, "input_size": (3, 390, 390)}
    from sogclr.models.patches import require_whole_patches

    require_whole_patches(published, 390)
    with pytest.raises(UserError, match="leave 7 of 391 px"):
        require_whole_patches(published, 391)


@pytest.mark.parametrize("size", [20, 15, 30])
def test_a_configuration_of_towers_is_checked(tiny, pairs, tmp_path, size):
    config = json.loads(tiny.read_text())
    patch = config["vision_cfg"]["patch_size"]
    config["vision_cfg"]["image_size"] = size
    assert size % patch
    (tmp_path / "odd.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"--model: patches of {patch} px leave {size % patch} of"):
        sogclr.align(pairs, tmp_path / "run", model=str(tmp_path / "odd.json"), epochs=1)
