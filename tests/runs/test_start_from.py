"""A run that starts from the encoder of another run."""

import pytest
import torch
from helpers.bits import checkpoint
from helpers.refusal import refused

import sogclr
from sogclr.runs.load import load_encoder

SHORT = {"batch_size": 8, "epochs": 1, "device": "cpu"}


@pytest.fixture
def run(make_folder, tmp_path):
    settings = {"encoder": "small", "image_size": 9, "norm": "group", **SHORT}
    sogclr.pretrain(make_folder(), tmp_path / "run", **settings)
    return tmp_path / "run"


def same(one, other):
    first, second = one.state_dict(), other.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


def test_the_encoder_goes_on_and_the_table_starts_anew(run, make_folder, tmp_path):
    other = make_folder("other", per_class=12, seed=1)
    sogclr.pretrain(other, tmp_path / "next", weights=str(run), **SHORT)
    started, spec = load_encoder(tmp_path / "next", initial=True)
    trained, own = load_encoder(run)
    assert spec == own
    assert same(started, trained)
    assert not same(started, load_encoder(tmp_path / "next")[0])
    assert checkpoint(tmp_path / "next")["loss"]["normalizer.table"][:-1, 1].tolist() == [1] * 24


def test_it_can_be_resumed(run, make_folder, tmp_path):
    out = tmp_path / "next"
    sogclr.pretrain(make_folder(), out, weights=str(run), **SHORT)
    assert sogclr.pretrain(make_folder(), out, epochs=2, resume=True).complete


def test_another_image_size_is_taken(run, make_folder, tmp_path):
    sogclr.pretrain(make_folder(), tmp_path / "next", weights=str(run), image_size=12, **SHORT)
    assert load_encoder(tmp_path / "next")[1].image_size == 12


def test_what_contradicts_the_run_is_refused(run, make_folder, tmp_path, capsys):
    start = ("pretrain", make_folder(), "--out", tmp_path / "next", "--weights", run)
    assert "has small, not resnet18; leave out --encoder" in refused(
        capsys, *start, "--encoder", "resnet18"
    )
    assert "has group, not batch" in refused(capsys, *start, "--norm", "batch")
    assert "is not a run of sogclr" in refused(capsys, *start[:-1], tmp_path)
    assert not (tmp_path / "next").exists()


def test_a_module_of_ones_own_is_passed_again(make_folder, tmp_path, capsys):
    def build():
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 16))

    run, photos = tmp_path / "run", make_folder()
    sogclr.pretrain(photos, run, encoder=build(), image_size=8, **SHORT)
    line = refused(capsys, "pretrain", photos, "--out", tmp_path / "next", "--weights", run)
    assert "trained a module of your own" in line
    trained = load_encoder(run, build())[0]
    sogclr.pretrain(photos, tmp_path / "next", encoder=build(), weights=str(run), **SHORT)
    assert same(load_encoder(tmp_path / "next", build(), initial=True)[0], trained)


def test_pairs_have_no_encoder_to_start_from(trained, make_folder, tmp_path, capsys):
    line = refused(
        capsys, "pretrain", make_folder(), "--out", tmp_path / "next", "--weights", trained
    )
    assert "is a run on pairs" in line
