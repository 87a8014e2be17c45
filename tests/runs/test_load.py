"""`sogclr.load` of runs, and of folders that are none."""

import json

import pytest
import torch
from PIL import Image
from torch import nn

import sogclr
from sogclr import UserError
from sogclr.models.encoders import build_encoder
from sogclr.runs.folder import Run
from sogclr.runs.stored import atomically


def test_what_is_not_a_run_says_so(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        sogclr.load(tmp_path / "none")
    with pytest.raises(UserError, match="is not a run"):
        sogclr.load(tmp_path)
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(UserError, match="saved no encoder"):
        sogclr.load(tmp_path)
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        sogclr.load(tmp_path)


def test_load_gives_the_encoder_and_its_preprocessing(tmp_path):
    encoder, spec = build_encoder("small", 16)
    run = Run(tmp_path)
    run.write_settings({})
    run.write_encoder(encoder.state_dict(), spec)
    model = sogclr.load(tmp_path)
    assert not model.training
    x = model.preprocess(Image.new("L", (40, 20), 255))
    assert x.shape == (3, 16, 16)
    white = (1 - torch.tensor(spec.mean)) / torch.tensor(spec.std)
    assert torch.allclose(x, white[:, None, None].expand_as(x))
    assert torch.equal(model(x[None]), encoder.eval()(x[None]))


def test_a_loader_that_is_killed_while_a_file_is_written_is_no_full_disk(tmp_path):
    def write(path):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    with pytest.raises(RuntimeError, match="DataLoader worker"):
        atomically(tmp_path / "x", write)
    assert not list(tmp_path.iterdir())


def test_an_encoder_of_another_shape_is_refused(tmp_path):
    encoder, spec = build_encoder("small", 16)
    run = Run(tmp_path)
    run.write_settings({})
    run.write_encoder(encoder.state_dict(), spec)
    with pytest.raises(UserError, match="does not fit"):
        sogclr.load(tmp_path, nn.Linear(2, 2))


@pytest.mark.parametrize(
    "change",
    [
        {"options": {"checkpoint_path": "weights.pt"}},
        {"options": {"pretrained_cfg": {"file": "weights.pt"}}},
        {"options": {"img_size": "16"}},
        {"options": {"img_size": 10**9}},
        {"name": "hf-hub:someone/model"},
        {"name": "local-dir:/tmp"},
        {"name": "../../resnet18"},
        {"name": 3},
        {"image_size": 0},
        {"mean": [0, 0]},
        {"std": [1, 1, -1]},
        {"small_stem": "yes"},
        {"new": 1},
        {"format": 2},
    ],
    ids=str,
)
def test_an_encoder_is_built_of_known_options_only(tmp_path, change):
    encoder, spec = build_encoder("small", 16)
    run = Run(tmp_path)
    run.write_settings({})
    run.write_encoder(encoder.state_dict(), spec)
    run.encoder_spec.write_text(json.dumps({**json.loads(run.encoder_spec.read_text()), **change}))
    with pytest.raises(UserError, match=r"run: .*encoder.json") as error:
        sogclr.load(tmp_path)
    assert "\n" not in error.value.args[0]


def test_lost_files_of_an_encoder_are_one_line(tmp_path):
    encoder, spec = build_encoder("small", 16)
    run = Run(tmp_path)
    run.write_settings({})
    run.write_encoder(encoder.state_dict(), spec)
    run.write_checkpoint({"step": 1})
    for path in (run.encoder_spec, run.encoder):
        path.unlink()
        with pytest.raises(UserError, match=f"{path.name} is missing; put the file back"):
            sogclr.load(tmp_path)
