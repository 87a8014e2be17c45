"""JSON, formats and digests of a run, whoever wrote its files."""

import json
import os

import pytest
import torch

from sogclr import UserError
from sogclr.runs.folder import Run
from sogclr.runs.stored import FORMAT, read_json, write_json


def test_json_is_read_as_written_with_its_format(tmp_path):
    write_json(tmp_path / "x.json", {"a": [1, None]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"format": FORMAT, "a": [1, None]}
    assert read_json(tmp_path / "x.json") == {"a": [1, None]}


@pytest.mark.parametrize("number", [FORMAT + 1, 0, "1", None, [1]])
def test_another_format_is_one_line(tmp_path, number):
    (tmp_path / "x.json").write_text(json.dumps({"format": number}))
    with pytest.raises(UserError, match="read it with the version of sogclr that wrote it"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"3", b"\xff", b"[" * 100_000, b'{"a": NaN}', b'{"a": -Infinity}',
        b'{"a": 1e999}', b'{"a": ' + b"9" * 30 + b"}", b'{"a": ' + b"9" * 5000 + b"}",
        b" " * (1 << 24) + b"{}",
    ],
    ids=range(12),
)  # fmt: skip
def test_damaged_json_is_one_line(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=r"x.json is damaged \(") as error:
        read_json(tmp_path / "x.json")
    assert len(str(error.value).splitlines()) == 1


def test_what_is_no_file_is_one_line(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("folder", "pipe", "device"):
        with pytest.raises(UserError, match=f"{name} cannot be read"):
            read_json(tmp_path / name)


WEIGHTS = {"a": torch.arange(1000.0)}


def _flip(path, place):
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("place", [0.0, 0.3, 0.5, 0.8, 0.999])
def test_a_flipped_bit_is_found(tmp_path, place):
    run = Run(tmp_path)
    run.write_checkpoint({"step": 1, **WEIGHTS})
    run.write_weights(run.encoder, WEIGHTS)
    assert torch.equal(run.read_weights(run.encoder)["a"], WEIGHTS["a"])
    assert torch.equal(run.read_checkpoint()["a"], WEIGHTS["a"])
    _flip(run.checkpoint, place)
    with pytest.raises(UserError, match=r"checkpoint.pt is not the file that was written"):
        Run(tmp_path).read_checkpoint()
    _flip(run.encoder, place)
    with pytest.raises(UserError, match=r"encoder.safetensors is not the file that was written"):
        Run(tmp_path).read_weights(run.encoder)


def test_a_kill_between_digest_and_file_leaves_the_old_file_readable(tmp_path, monkeypatch):
    run = Run(tmp_path)
    run.write_checkpoint({"step": 1})
    old = run.checkpoint.read_bytes()
    run.write_checkpoint({"step": 2})
    new = run.checkpoint.read_bytes()
    for content, step in ((old, 1), (new, 2)):  # killed before the file got its name, and after
        run.checkpoint.write_bytes(content)
        assert Run(tmp_path).read_checkpoint()["step"] == step
    run.write_checkpoint({"step": 3})
    run.checkpoint.write_bytes(old)
    with pytest.raises(UserError, match="not the file that was written"):
        run.read_checkpoint()


def test_failed_writes_do_not_forget_the_file_that_is_there(tmp_path):
    Run(tmp_path).write_checkpoint({"step": 1})
    for _ in range(3):
        failing = Run(tmp_path)
        with pytest.raises(UserError, match=r"the last checkpoint.pt is intact"):
            failing.digests.write(failing.checkpoint, _fail)
    assert Run(tmp_path).read_checkpoint()["step"] == 1


def _fail(path):
    path.write_bytes(b"half")
    raise OSError(28, "No space left on device")


def test_a_checkpoint_of_another_format_is_one_line(tmp_path):
    run = Run(tmp_path)
    for state, said in (({"format": 9}, "has format 9"), ([1], "is no checkpoint of sogclr")):
        torch.save(state, run.checkpoint)
        with pytest.raises(UserError, match=said):
            run.read_checkpoint()
