"""Locks, permissions and links, with the features of this system and without them."""

import os
import signal
import stat
import subprocess
import sys
from contextlib import contextmanager, suppress

import pytest

from sogclr.common import system
from sogclr.common.system import append_to, create_file, hold_lock, process_is_gone

# As on a disk without locks.
NO_LOCKS = """
import errno, fcntl
def refuse(handle, operation):
    raise OSError(errno.ENOSYS, "no locks here")
fcntl.flock = refuse
"""
HOLD = """
import os, sys, time
from pathlib import Path
from sogclr.common.system import hold_lock
with hold_lock(Path(sys.argv[1])) as held:
    if "fork" in sys.argv and os.fork() == 0:  # as loader workers, which outlive a killed process
        os.close(1)
        time.sleep(600)
    print(held, flush=True)
    if "wait" in sys.argv:
        time.sleep(600)
"""


@contextmanager
def _holder(path, *words, before=""):
    """A process that takes the lock, and whether it got it."""
    command = [sys.executable, "-c", before + HOLD, str(path), *words]
    pipe = {"stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, start_new_session=True, **pipe) as process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("before", ["", NO_LOCKS], ids=["locks", "no locks"])
@pytest.mark.parametrize("words", [(), ("fork",)], ids=["alone", "with a worker"])
def test_a_lock_excludes_others_and_vanishes_with_a_killed_process(tmp_path, before, words):
    path = tmp_path / "lock"
    with _holder(path, "wait", *words, before=before) as (first, held):
        assert held == "True"
        with _holder(path, before=before) as (_, held):
            assert held == "False"
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        with _holder(path, before=before) as (last, held):
            assert held == "True"
            last.wait()
    assert not path.exists()


def test_a_lock_excludes_the_same_process_too(tmp_path):
    with hold_lock(tmp_path / "lock") as first, hold_lock(tmp_path / "lock") as second:
        assert (first, second) == (True, False)
    with hold_lock(tmp_path / "lock") as third:
        assert third


def test_a_link_is_no_lock(tmp_path):
    (tmp_path / "lock").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic"), hold_lock(tmp_path / "lock"):
        pass
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_a_new_file_has_the_permissions_of_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        assert create_file(tmp_path / "file") == 0o666 & ~umask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask
    with pytest.raises(FileExistsError):
        create_file(tmp_path / "file")


@pytest.mark.parametrize("no_follow", [system.NO_FOLLOW, 0], ids=["as here", "as on Windows"])
def test_nothing_is_written_through_a_link(tmp_path, monkeypatch, no_follow):
    monkeypatch.setattr(system, "NO_FOLLOW", no_follow)
    (tmp_path / "other").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="link"):
        append_to(tmp_path / "link")
    with pytest.raises(FileExistsError):
        create_file(tmp_path / "link")
    assert (tmp_path / "other").read_text() == "mine"
    with append_to(tmp_path / "file") as file:
        file.write(b"1")
    with append_to(tmp_path / "file") as file:
        file.write(b"2")
    assert (tmp_path / "file").read_bytes() == b"12"


def test_a_process_is_gone_once_it_has_ended(monkeypatch):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert not process_is_gone(process.pid)
    process.communicate(b"\n")
    assert process_is_gone(process.pid)
    assert process_is_gone(10**30)
    monkeypatch.setattr(os, "name", "nt")
    assert not process_is_gone(process.pid)  # unknown there


def test_signals_that_a_system_lacks_are_left_out():
    assert signal.SIGINT in system.STOP_SIGNALS
    assert signal.SIGTERM in system.STOP_SIGNALS
    assert len(system.STOP_SIGNALS) == 2 + hasattr(signal, "SIGBREAK")
