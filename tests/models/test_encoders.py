import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from sogclr import UserError
from sogclr.models.encoders import (
    EncoderSpec,
    build_encoder,
    build_projector,
    rebuild_encoder,
    width_of,
)


@pytest.mark.parametrize(
    ("name", "size"), [("small", 8), ("small", 32), ("resnet18", 32), ("vit_tiny_patch16_224", 32)]
)
def test_encoders_map_images_to_features_and_are_rebuilt_from_their_spec(name, size):
    encoder, spec = build_encoder(name, size)
    images = torch.randn(2, 3, size, size)
    features = encoder.eval()(images)
    assert features.shape == (2, width_of(encoder, size))
    again = rebuild_encoder(EncoderSpec.from_dict(spec.as_dict()))
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again.eval()(images), features)


def test_the_small_stem_keeps_small_images_large():
    small, spec = build_encoder("resnet18", 32)
    assert spec.small_stem
    assert small.forward_features(torch.zeros(1, 3, 32, 32)).shape[-1] == 4
    large, spec = build_encoder("resnet18", 64)
    assert not spec.small_stem
    assert large.conv1.stride == (2, 2)


def test_weights_go_to_timm_and_come_back(tmp_path):
    theirs = timm.create_model("resnet18", num_classes=10)
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    ours, spec = build_encoder("resnet18", 32, weights=str(tmp_path / "w.safetensors"))
    assert not spec.small_stem  # pretrained weights need the stem they were trained with
    plain = timm.create_model("resnet18", num_classes=0)
    plain.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 32, 32)
    expected = theirs.eval().forward_head(theirs.forward_features(images), pre_logits=True)
    assert torch.allclose(plain.eval()(images), expected)


def test_torch_files_of_weights_work_too(tmp_path):
    theirs = timm.create_model("resnet18", num_classes=0)
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "w.pt")
    ours, _ = build_encoder("resnet18", 64, weights=str(tmp_path / "w.pt"))
    assert torch.equal(ours.conv1.weight, theirs.conv1.weight)


def test_unknown_encoders_name_the_nearest():
    with pytest.raises(UserError, match=r"'resnet19' is unknown; nearest: .*resnet1[08]"):
        build_encoder("resnet19", 32)


def test_weights_that_are_missing_or_do_not_fit_say_so(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        build_encoder("resnet18", 64, weights=str(tmp_path / "none.safetensors"))
    (tmp_path / "bad.pt").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read"):
        build_encoder("resnet18", 64, weights=str(tmp_path / "bad.pt"))
    save_file({"x": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="tensors are missing"):
        build_encoder("resnet18", 64, weights=str(tmp_path / "w.safetensors"))


def test_a_module_that_does_not_give_features_is_refused():
    with pytest.raises(UserError, match=r"must map .* to features"):
        width_of(nn.Conv2d(3, 4, 3), 8)


def test_asking_for_the_width_changes_nothing():
    encoder, _ = build_encoder("small", 8)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    assert encoder.training
    width_of(encoder, 8)
    assert encoder.training
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


def test_the_projector_ends_in_128_features():
    assert build_projector(16)(torch.randn(4, 16)).shape == (4, 128)
