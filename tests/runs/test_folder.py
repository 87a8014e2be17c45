import resource
import subprocess
import sys

import pytest
import torch
from PIL import Image
from torch import nn

import sogclr
from sogclr import UserError
from sogclr.models.encoders import build_encoder
from sogclr.runs.folder import Run


def test_a_failing_write_keeps_the_last_checkpoint(tmp_path):
    run = Run(tmp_path)
    run.write_checkpoint({"step": 1, "weights": torch.zeros(10)})
    # A limit on file size fails the write midway, in a process of its own, like a full disk.
    script = (
        "import resource, torch; from sogclr.runs.folder import Run; "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, {resource.RLIM_INFINITY})); "
        f"Run({str(tmp_path)!r}).write_checkpoint({{'step': 2, 'weights': torch.zeros(10**6)}})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "the last checkpoint.pt is intact" in done.stderr
    assert run.read_checkpoint()["step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


class Surprise:
    pass


def test_checkpoints_hold_plain_data_only(tmp_path):
    run = Run(tmp_path)
    run.write_checkpoint({"anything": Surprise()})
    with pytest.raises(UserError, match="cannot be read"):
        run.read_checkpoint()


def test_too_little_space_is_found_before_training(tmp_path):
    with pytest.raises(UserError, match="MB are free"):
        Run(tmp_path).require_space(10**18)


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


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        Run(tmp_path / "file" / "run").create()


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


def test_an_encoder_of_another_shape_is_refused(tmp_path):
    encoder, spec = build_encoder("small", 16)
    run = Run(tmp_path)
    run.write_settings({})
    run.write_encoder(encoder.state_dict(), spec)
    with pytest.raises(UserError, match="does not fit"):
        sogclr.load(tmp_path, nn.Linear(2, 2))
