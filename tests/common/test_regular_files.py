"""Opening files that have an end: what is refused at once, and how."""

import os
import socket

import pytest

from sogclr.common.regular_files import open_regular_file


def test_a_file_is_opened_through_links_too(tmp_path):
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "b").symlink_to("a")
    for name in "ab":
        for buffering in (-1, 0):
            with open_regular_file(tmp_path / name, buffering) as file:
                assert file.read() == b"content"


def test_what_would_block_or_never_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the address of a socket is at most 108 bytes
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        refused = {
            tmp_path / "pipe": "is a named pipe, not a file",
            tmp_path / "link": "is a named pipe, not a file",
            tmp_path / "socket": "is a socket, not a file",
            tmp_path: "is a folder, not a file",
            "/dev/zero": "is a device, not a file",
        }
        for path, reason in refused.items():
            with pytest.raises(OSError, match=reason):
                open_regular_file(path)


def test_a_pipe_that_replaces_the_file_is_refused(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"")
    before = os.stat(tmp_path / "file")
    monkeypatch.setattr("sogclr.common.regular_files.os.stat", lambda _: before)
    with pytest.raises(OSError, match="is a named pipe"):
        open_regular_file(tmp_path / "pipe")


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_regular_file(tmp_path / "none")
