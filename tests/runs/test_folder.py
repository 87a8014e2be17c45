"""Files of a run are written whole or not at all, and read without trust."""

import resource
import subprocess
import sys

import pytest
import torch

from sogclr import UserError
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
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["checkpoint.pt", "digests.json"]


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


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    run = Run(tmp_path / "file" / "run")
    with pytest.raises(UserError, match="cannot write to"), run.claim():
        pass


def test_a_folder_is_held_by_one_run(tmp_path):
    first, second = Run(tmp_path / "run"), Run(tmp_path / "run")
    with first.claim():
        with pytest.raises(UserError, match="another process trains in"), second.claim():
            pass
        assert first.lock.exists()
        first.write_settings({})
    assert [path.name for path in first.folder.iterdir()] == ["settings.json"]
    with second.claim():
        pass


def test_a_folder_that_nothing_was_written_to_is_removed(tmp_path):
    (tmp_path / "mine").mkdir()
    for name in ("new", "mine"):
        with pytest.raises(ZeroDivisionError), Run(tmp_path / name).claim():
            _ = 1 / 0
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_leftovers_of_kills_are_removed_at_the_next_start(tmp_path):
    names = [".checkpoint.pt.999999", ".encoder.safetensors.7", ".settings.json.1", ".tmpAbCdEf"]
    kept = ["checkpoint.pt", ".mine", ".checkpoint.pt.old", "notes.txt"]
    for name in [*names, *kept]:
        (tmp_path / name).write_bytes(b"0")
    with Run(tmp_path).claim():
        left = {path.name for path in tmp_path.iterdir()}
    assert left == {*kept, "run.lock"}


@pytest.mark.parametrize("name", ["tb", "text", "embeddings"])
def test_folders_of_a_run_that_are_links_are_refused(tmp_path, name):
    (tmp_path / "other").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "other")
    with pytest.raises(UserError, match=f"{name} is a link"), Run(tmp_path / "run").claim():
        pass


def test_space_that_the_files_of_a_run_take_counts_as_free(tmp_path, monkeypatch):
    run = Run(tmp_path)
    run.write_checkpoint({"weights": torch.zeros(10**6)})
    run.write_weights(run.encoder, {"weights": torch.zeros(10**6)})
    (tmp_path / "other").write_bytes(b"0" * 10**7)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    run.require_space(8 * 10**6)
    with pytest.raises(UserError, match="8 MB are free"):
        run.require_space(9 * 10**6)


@pytest.mark.parametrize("kind", ["other", ["images"], {}, None, 3])
def test_a_kind_that_no_command_writes_is_damage(tmp_path, kind):
    run = Run(tmp_path)
    run.write_settings({"kind": kind})
    with pytest.raises(UserError, match="is damaged"):
        run.read_settings()
