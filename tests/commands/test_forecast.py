"""`--dry-run` checks what training checks, tells what to expect, and starts nothing."""

from pathlib import Path

import pytest
from helpers.packing import pack
from helpers.refusal import refused
from torch import nn

import sogclr
from sogclr.commands.cli import main
from sogclr.planning.gpus import GPUS


@pytest.fixture
def photos(make_folder):
    return make_folder(per_class=16)


def files_below(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_the_plan_is_that_of_training_and_nothing_is_written(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = files_below(tmp_path)
    words = ["pretrain", str(photos), "--out", str(tmp_path / "run"), "--epochs", "1"]
    words += ["--device", "cpu", "--batch-size", "8"]
    main([*words, "--dry-run"])
    told = capsys.readouterr().err.splitlines()
    written = {path.relative_to(tmp_path) for path in files_below(tmp_path) - before}
    assert all(path.parts[0] == "cache" for path in written), written  # sizes of files, no run

    main(words)
    plan = capsys.readouterr().err.splitlines()
    start = told.index("  rehearsing a step; nothing is started")
    assert told[:start] == plan[:start]
    assert told[start + 1].startswith("  memory ")
    assert told[start + 2].startswith("  time ")
    assert told[-1] == "nothing was started; leave out --dry-run to train"


def test_hours_of_named_gpus_need_no_gpu(photos, tmp_path, capsys):
    found = sogclr.pretrain(
        photos, tmp_path / "run", dry_run=True, device="cuda", encoder="resnet18", image_size=32,
        epochs=10,
    )  # fmt: skip
    assert not found.complete
    expected = found.forecast
    assert list(expected.hours) == [gpu.name for gpu in GPUS]
    seconds = {gpu.teraflops * expected.hours[gpu.name] for gpu in GPUS}
    assert max(seconds) == pytest.approx(min(seconds))  # all have the same operations
    assert expected.operations > 32 * 10 * 2 * 3 * 2 * 11e6  # each weight is used several times
    told = capsys.readouterr().err
    assert "bf16-mixed" in told
    assert all(f"{gpu.gigabytes} GB are enough" in told for gpu in GPUS)
    twice = sogclr.pretrain(
        photos, tmp_path / "run", dry_run=True, device="cuda", encoder="resnet18", image_size=32,
        epochs=20,
    )  # fmt: skip
    assert twice.forecast.operations == 2 * expected.operations
    assert twice.forecast.memory == expected.memory


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--encoder", "resnet5"], "'resnet5' is unknown"),
        (["--batch-size", "33"], "more than the 32 images"),
        (["--resume"], "--dry-run: does not forecast a run that is resumed"),
        (["--shard-model"], "--dry-run: does not forecast --shard-model"),
        (["--encoder", "test_vit", "--image-size", "30"], "30"),
        (["--weights", "none.pt", "--encoder", "test_resnet"], "none.pt"),
    ],
)
def test_what_training_refuses_is_refused(photos, tmp_path, capsys, flags, message):
    out = tmp_path / "run"
    line = refused(capsys, "pretrain", photos, "--out", out, "--dry-run", *flags)
    assert message in line
    assert not out.exists()


def test_a_folder_that_training_could_not_write_is_refused(photos, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        line = refused(capsys, "pretrain", photos, "--out", out, "--dry-run")
        assert "cannot write" in line
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "settings.json").write_text("{}")
    line = refused(capsys, "pretrain", photos, "--out", tmp_path / "run", "--dry-run")
    assert "holds a run already" in line


def test_activations_that_are_computed_again_need_less_memory(photos, tmp_path):
    settings = {"encoder": "test_vit", "image_size": 96, "batch_size": 32, "device": "cuda"}
    stored, again = (
        sogclr.pretrain(
            photos, tmp_path / "run", dry_run=True, checkpoint_activations=checkpoint, **settings
        ).forecast
        for checkpoint in (False, True)
    )
    assert again.memory < 0.8 * stored.memory
    assert again.operations > stored.operations


class ReadsValues(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3 * 16 * 16, 8)

    def forward(self, images):
        assert images.abs().max().item() < 100
        return self.layer(images.flatten(1))


def test_a_model_that_reads_values_has_a_time_and_no_memory(photos, tmp_path, capsys):
    found = sogclr.pretrain(
        photos, tmp_path / "run", encoder=ReadsValues(), image_size=16, dry_run=True, device="cpu"
    )
    assert found.forecast.memory is None
    assert found.forecast.hours["cpu"] > 0
    assert "needs real data" in capsys.readouterr().err


@pytest.mark.parametrize("freeze", ["", "image", "image,text"])
def test_pairs_with_towers_of_timm_and_hugging_face(
    pairs, bert, resnet_weights, tmp_path, monkeypatch, freeze
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = sogclr.align(
        pairs, tmp_path / "run", image_tower="test_resnet", image_weights=str(resnet_weights),
        image_size=32, text_tower=str(bert), width=24, freeze=freeze, batch_size=8, epochs=3,
        device="cpu", dry_run=True,
    )  # fmt: skip
    assert found.forecast.memory > 0
    assert not (tmp_path / "run").exists()
    assert not list(tmp_path.rglob("*.npy"))  # features of all samples would be cached


def test_a_stream_of_pairs_reads_its_first_samples(pairs, tiny, tmp_path):
    members = []
    for image in sorted((pairs.parent / "img").iterdir()):
        members += [(image.name, image.read_bytes()), (f"{image.stem}.txt", b"a picture")]
    pack(tmp_path / "0.tar", members)
    found = sogclr.align(
        (tmp_path / "0.tar").as_uri(), tmp_path / "run", model=str(tiny), batch_size=8, epochs=1,
        epoch_samples=24, table_rows=1000, device="cpu", dry_run=True,
    )  # fmt: skip
    assert found.forecast.table >= 2 * 8 * 1000
    assert not (tmp_path / "run").exists()
