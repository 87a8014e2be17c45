"""Files at URLs: how they are asked for, and that no server makes a reader wait for ever."""

import gzip
import os
import time
from base64 import b64encode

import fsspec
import pytest
from helpers.serving import answering, serving

from sogclr import UserError
from sogclr.data.tar import remote
from sogclr.data.tar.remote import Patience, RemoteFile, UnreachableError

CONTENT = bytes(range(256)) * 20
OK = b"HTTP/1.0 200 OK\r\n"


def patience(seconds=60.0):
    return Patience(seconds, "no sample for too long")


def read(url, size=1 << 20):
    file = RemoteFile(url, patience())
    try:
        return file.read(size)
    finally:
        file.close()


@pytest.fixture
def file(tmp_path):
    (tmp_path / "a b#c.tar").write_bytes(CONTENT)
    return tmp_path / "a b#c.tar"


@pytest.mark.parametrize("block", [1, 700, 1 << 20])
def test_reading_goes_forward(file, monkeypatch, block):
    monkeypatch.setattr(remote, "BLOCK", block)
    stream = RemoteFile(file.as_uri(), patience())
    assert stream.peek()[:1] == CONTENT[:1]
    assert (stream.tell(), stream.read(1000), stream.tell()) == (0, CONTENT[:1000], 1000)
    stream.seek(3000)
    assert stream.read(0) == b""
    assert stream.read(9999) == CONTENT[3000:]
    assert stream.read(1) == stream.peek() == b""
    stream.seek(1 << 70)
    assert stream.tell() == len(CONTENT)
    stream.close()


def test_http_and_memory_give_what_the_file_holds(file):
    with serving(file.parent) as (address, asked):
        assert read(f"{address}/a%20b%23c.tar?k=1#fragment") == CONTENT
        assert read(f"{address}/a b%23c.tar") == CONTENT
    assert asked == ["/a%20b%23c.tar?k=1", "/a%20b%23c.tar"]
    system = fsspec.filesystem("memory")
    system.pipe_file("/folder/a.tar", CONTENT)
    assert read("memory://folder/a.tar") == CONTENT
    system.rm("/folder", recursive=True)


def test_escapes_of_a_signed_url_reach_the_server_as_they_are():
    def answer(send, _):
        send(OK + b"\r\ncontent")

    path = "/a%2Fb+c%20d/x.tar?sig=%2Fa%2Bb%3D%3d&x=~(1)"
    with answering(answer) as (address, requests):
        assert read(address + path) == b"content"
        password = address.replace("http://", "http://me:p%40ss@")
        assert read(f"{password}/a.tar") == b"content"
    assert requests[0].startswith(f"GET {path} HTTP/1.1\r\n")
    assert f"Authorization: Basic {b64encode(b'me:p@ss').decode()}\r\n" in requests[1]


def test_a_redirection_is_followed(file):
    with serving(file.parent) as (target, _):

        def answer(send, _):
            send(b"HTTP/1.0 302 Found\r\nLocation: " + target.encode() + b"/a%20b%23c.tar\r\n\r\n")

        with answering(answer) as (address, _):
            assert read(f"{address}/x.tar") == CONTENT


def test_content_that_the_server_compresses_is_unpacked():
    def answer(send, _):
        send(OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(CONTENT))

    with answering(answer) as (address, _):
        assert read(f"{address}/x.tar") == CONTENT


def _drip_body(send, stopped):
    send(OK + b"\r\n")
    while not stopped.wait(0.01):
        send(b"a")


def _drip_head(send, stopped):
    while not stopped.wait(0.01):
        send(b"H")


def _drip_fields(send, stopped):
    send(OK)
    while not stopped.wait(0.01):
        send(b"X: y\r\n")


def _drip_chunks(send, stopped):
    send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not stopped.wait(0.01):
        send(b"1\r\na\r\n")


def _say_nothing(send, stopped):
    stopped.wait()


def _stop_within(send, stopped):
    send(OK + b"Content-Length: 4000\r\n\r\n" + bytes(3000))
    stopped.wait()


SLOW = [_drip_body, _drip_head, _drip_fields, _drip_chunks, _say_nothing, _stop_within]


@pytest.mark.parametrize("answer", SLOW)
def test_a_server_that_is_too_slow_is_left(answer, monkeypatch):
    monkeypatch.setattr(remote, "TIMEOUT", 0.3)
    with answering(answer) as (address, _), pytest.raises(UnreachableError) as error:
        read(f"{address}/x.tar")
    assert error.value.is_timeout or error.value.is_final
    assert "within 0.3 s" in error.value.reason or error.value.reason.startswith("400 ")


def test_a_file_system_that_blocks_is_left(file, monkeypatch):
    monkeypatch.setattr(remote, "TIMEOUT", 0.2)
    monkeypatch.setattr(remote, "_open", lambda _: time.sleep(3))
    with pytest.raises(UnreachableError, match=r"no answer within 0\.2 s"):
        read(file.as_uri())


def test_a_server_without_end_is_left_when_the_patience_is_over(monkeypatch):
    monkeypatch.setattr(remote, "BLOCK", 1 << 12)

    def answer(send, stopped):
        send(OK + b"\r\n")
        while not stopped.is_set():
            send(bytes(1 << 16))

    with answering(answer) as (address, _):
        stream = RemoteFile(f"{address}/x.tar", patience(0.3))
        with pytest.raises(UserError, match="no sample for too long"):
            stream.seek(1 << 70)
        stream.close()


def test_patience_starts_anew():
    limit = patience(-1.0)
    limit.restart()
    with pytest.raises(UserError, match="no sample"):
        limit.check()
    patience(1e9).check()


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.0 200 OK\r\nContent-Length: abc\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.0 99999 OK\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nX: " + 100_000 * b"x" + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.0 302 Found\r\nLocation: http://[x?hunter2\r\n\r\n",
        b"HTTP/1.0 302 Found\r\nLocation: /x.tar?hunter2\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Encoding: gzip\r\n\r\nnot gzip",
        b"SSH-2.0-OpenSSH\r\n",
        b"\x16\x03\x01" + bytes(100),
        b"",
    ],
    ids=lambda head: head[:40],
)
def test_answers_that_are_no_http_are_named(head):
    def answer(send, _):
        send(head)

    with answering(answer) as (address, _), pytest.raises(UnreachableError) as error:
        read(f"{address}/x.tar?hunter2")
    assert 0 < len(error.value.reason) <= 220
    assert "hunter2" not in error.value.reason
    assert "\n" not in error.value.reason


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/x.tar?hunter2",
        "http://hunter2.invalid host/x.tar?hunter2#hunter2",
        "http://me:hunter2@\ud800/x.tar",
        "http://127.0.0.1:1/\ud800\n\r\0.tar?hunter2",
        "memory://x.tar#hunter2",
        "https://..:443/x.tar#hunter2",
        "file:///none.tar?hunter2",
        "file:///%00.tar",
        "zip://x.tar",
        "reference://hunter2@x.tar",
    ],
)
def test_urls_that_lead_nowhere_are_named(url):
    with pytest.raises(UnreachableError) as error:
        read(url)
    assert error.value.reason
    assert "hunter2" not in error.value.reason.replace("hunter2.invalid", "")


@pytest.mark.parametrize("kind", ["named pipe", "folder", "device"])
def test_what_is_no_file_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "x.tar"
    make = {
        "named pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "device": lambda: path.symlink_to("/dev/zero"),
    }
    make[kind]()
    with pytest.raises(UnreachableError, match=f"is a {kind}, not a file") as error:
        read(path.as_uri())
    assert error.value.is_final
