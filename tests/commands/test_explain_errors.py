"""What a person or the machine causes is one line; what remains is a bug and says so."""

import errno
import subprocess
import sys
from email.message import Message
from importlib.metadata import metadata

import pytest
import torch
import torch.distributed as dist

from sogclr.commands import cli, explain_errors
from sogclr.commands.explain_errors import explain, report_line

CAUSED = {
    "the memory is full": [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
    "fewer --workers": [
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
        RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"),
        RuntimeError("DataLoader worker (pid 9) is killed by signal: Bus error. It is possible"),
    ],
    "x.csv: ": [
        PermissionError(errno.EACCES, "Permission denied", "x.csv"),
        OSError(errno.ENAMETOOLONG, "File name too long", "x.csv"),
        NotADirectoryError(errno.ENOTDIR, "Not a directory", "x.csv"),
    ],
    "the system refused": [OSError(errno.EMFILE, "Too many open files")],
}
LOST = [
    dist.DistBackendError("NCCL error in: x.cpp"),
    dist.DistStoreError("wait timeout after 5000ms"),
    RuntimeError("[../third_party/gloo/x.cc:598] Connection closed by peer [127.0.0.1]:7"),
]


def failed(error, monkeypatch, capsys):
    def fail(words):
        raise error

    monkeypatch.setattr(cli, "_dispatch", fail)
    with pytest.raises(SystemExit) as exit:
        cli.main(["pretrain"])
    return exit.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "error"), [(words, error) for words, errors in CAUSED.items() for error in errors]
)
def test_what_a_person_or_the_machine_causes(words, error, monkeypatch, capsys):
    code, said = failed(error, monkeypatch, capsys)
    assert code == 2
    assert said.count("\n") == 1
    assert said.startswith("sogclr: ")
    assert words in said


@pytest.mark.parametrize("name", ["a\nb.csv", "\x1b[2Jx", "\u202excod.csv", "\udcff.csv", "\x00"])
@pytest.mark.parametrize("kind", [OSError, RuntimeError, MemoryError])
def test_names_in_messages_neither_break_nor_steer_the_line(name, kind, monkeypatch, capsys):
    text = f"CUDA out of memory: {name}"
    error = OSError(errno.ENOENT, "No such file", name) if kind is OSError else kind(text)
    code, said = failed(error, monkeypatch, capsys)
    assert code == 2
    assert said.count("\n") == 1
    assert said.strip("\n").isprintable()
    assert "b.csv" in said or "\\" in said


def test_a_bug_is_reported_where_the_package_says(monkeypatch):
    """The package has no address for issues; one that it gets is named."""
    listed = metadata("sogclr").get_all("Project-URL") or []
    issues = [url.split(", ", 1)[1] for url in listed if url.startswith("Issues, ")]
    assert (issues[0] if issues else "to the people from whom you have sogclr") in report_line()
    with_address = Message()
    with_address["Project-URL"] = "Paper, https://example.org/paper"
    with_address["Project-URL"] = "Issues, https://example.org/issues"
    monkeypatch.setattr(explain_errors, "metadata", lambda name: with_address)
    assert "please report it at https://example.org/issues, with" in report_line()


@pytest.mark.parametrize("error", LOST)
def test_a_lost_process(error, monkeypatch, capsys):
    assert explain(error) is None  # one process alone has none to lose
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "2")
    code, said = failed(error, monkeypatch, capsys)
    assert code == 2
    assert said.startswith("sogclr: process 2 of 3: another process ended or did not answer (")


@pytest.mark.parametrize("error", [KeyError("x"), AssertionError(), RuntimeError("shapes")])
def test_a_bug(error, monkeypatch, capsys):
    code, said = failed(error, monkeypatch, capsys)
    assert code == 1
    assert "Traceback" in said
    last = said.strip().split("\n")[-1]
    assert last.startswith("sogclr: this is a bug of sogclr ")
    assert "please report it" in last


@pytest.mark.parametrize("words", [["--help"], ["pretrain", "--help"], ["--version"]])
def test_a_reader_that_has_read_enough(words):
    command, pipe = [sys.executable, "-m", "sogclr", *words], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141
