"""A file is written whole or not at all, and what kills leave is removed."""

import os
import stat
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from sogclr.common import whole_files
from sogclr.common.whole_files import remove_leftovers, replace_file


def _safetensors(path):
    save_file({"a": torch.zeros(2)}, path)


WRITERS = [
    lambda path: path.write_text("new"),
    lambda path: torch.save({"a": 1}, path),
    _safetensors,
]


@pytest.mark.parametrize("write", WRITERS, ids=["text", "torch", "safetensors"])
@pytest.mark.parametrize("umask", [0o022, 0o007])
def test_a_file_has_the_permissions_of_the_umask_whoever_writes_it(tmp_path, write, umask):
    before = os.umask(umask)
    try:
        replace_file(tmp_path / "file", write)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [OSError(28, "full"), RuntimeError("torch"), KeyboardInterrupt])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, error):
    target = tmp_path / "file"
    target.write_text("old")

    def write(path):
        path.write_text("ne")
        raise error

    with pytest.raises(type(error) if isinstance(error, Exception) else error):
        replace_file(target, write)
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("write", WRITERS, ids=["text", "torch", "safetensors"])
def test_links_are_replaced_not_followed(tmp_path, write):
    other, target = tmp_path / "other", tmp_path / "file"
    other.write_text("mine")
    target.symlink_to(other)
    (tmp_path / f".file.{os.getpid()}").symlink_to(other)  # where the temporary file will be
    replace_file(target, write)
    assert other.read_text() == "mine"
    assert not target.is_symlink()
    assert target.stat().st_size


def _ended_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_leftovers_of_ended_processes_are_removed_and_nothing_else(tmp_path):
    gone = _ended_process()
    kept = [f".a.{os.getpid()}", f".b.{gone}", f"a.{gone}", ".tmpAbCdEf", ".a.x", "a"]
    for name in [*kept, f".a.{gone}"]:
        (tmp_path / name).write_text("")
    remove_leftovers(tmp_path, "a".__eq__)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_leftovers_are_all_removed_where_no_other_process_writes(tmp_path):
    kept = [".b.1", "a", "a.1"]
    for name in [*kept, f".a.{os.getpid()}", ".a.1", ".tmpAbCdEf"]:
        (tmp_path / name).write_text("")
    remove_leftovers(tmp_path, "a".__eq__, ours=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
    remove_leftovers(tmp_path / "none", "a".__eq__, ours=True)


def test_where_processes_are_unknown_a_leftover_is_one_of_yesterday(tmp_path, monkeypatch):
    monkeypatch.setattr(whole_files, "process_is_gone", lambda number: False)
    for name, age in ((".a.1", 90_000), (".a.2", 10)):
        (tmp_path / name).write_text("")
        changed = (tmp_path / name).stat().st_mtime - age
        os.utime(tmp_path / name, (changed, changed))
    remove_leftovers(tmp_path, "a".__eq__)
    assert [path.name for path in tmp_path.iterdir()] == [".a.2"]
