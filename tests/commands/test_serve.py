"""`sogclr serve`: which port and data it opens, what it refuses, and how it ends."""

import os
import re
import signal
import socket
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
from helpers.launching import alone, finished
from helpers.refusal import refused

import sogclr
from sogclr.commands import serve as serving


@pytest.fixture
def started(monkeypatch):
    """Apps and sockets that would be served until Ctrl-C."""
    started = []
    monkeypatch.setattr(
        serving,
        "_answer_until_stopped",
        lambda app, listening: started.append(listening.getsockname()),
    )
    return started


def test_the_port_is_free_and_of_this_machine_alone(trained, started, capsys):
    sogclr.serve(trained)
    ((host, port),) = started
    assert host == "127.0.0.1"
    assert f"search: open http://127.0.0.1:{port} in a browser" in capsys.readouterr().err


def test_a_port_in_use_is_passed_over_but_refused_if_asked_for(
    trained, started, capsys, monkeypatch
):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(serving, "PORT", port)
        sogclr.serve(trained)
        assert started[0][1] != port
        line = refused(capsys, "serve", trained, "--port", port)
    assert f"--port: cannot open http://127.0.0.1:{port} (" in line
    assert "name another --port" in line


@pytest.mark.parametrize("host", ["0.0.0.0", "localhost", "127.0.0.1"])
def test_others_are_let_in_only_on_request_and_that_is_said(trained, started, capsys, host):
    sogclr.serve(trained, host=host)
    said = "whoever reaches this address" in capsys.readouterr().err
    assert said == (host == "0.0.0.0") == (started[0][0] == "0.0.0.0")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "70000"], "--port: must be between 0 and 65535, got 70000"),
        (["--port", "-1"], "--port: must be between 0 and 65535, got -1"),
        (["--host", "no such host"], "--host: no such host is no name of this machine"),
        (["gone/"], "data: gone/ does not exist"),
    ],
)
def test_what_cannot_work_is_refused(trained, started, capsys, words, message):
    assert message in refused(capsys, "serve", trained, *words)
    assert not started


def test_a_missing_library_is_named_with_its_extra(trained, started, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    line = refused(capsys, "serve", trained)
    assert "needs uvicorn, which is not installed: pip install 'sogclr[serve]'" in line


def test_ctrl_c_ends_the_server_without_an_error(trained):
    program = alone("-m", "sogclr", "serve", str(trained), "--port", "0")
    address = None
    while address is None:
        assert program.returncode is None
        found = re.search(
            r"open (http://127\.0\.0\.1:\d+) in", Path(program.output.name).read_text()
        )
        address = found and found[1]
        time.sleep(0.02)
    with urlopen(address) as page:
        assert b"Describe what you look for" in page.read()
    os.kill(program.processes[0].pid, signal.SIGINT)
    said = finished(program)
    assert said.endswith("ended\n")
    assert "Traceback" not in said
