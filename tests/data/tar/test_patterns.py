"""Patterns with braces: which names they stand for; too many are refused at once."""

import os

import pytest
from helpers.packing import encoded, pack

from sogclr import UserError
from sogclr.data.tar import patterns
from sogclr.data.tar.images import ShardSource
from sogclr.data.tar.patterns import expand_braces, find_shards


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("{a,b}-{8..10}.tar", [f"{x}-{n}.tar" for x in "ab" for n in (8, 9, 10)]),
        ("{08..10}", ["08", "09", "10"]),
        ("{1700000000008..1700000000010}", [f"17000000000{n}" for n in ("08", "09", "10")]),
        ("{a,b{1,2}}", ["a", "b1", "a", "b2"]),
        ("{5..1}.tar", []),
        ("{}x", ["x"]),
        ("a}{b", ["a}{b"]),
        (200 * "{a}", [200 * "a"]),
    ],
)
def test_names_of_a_pattern(pattern, names):
    assert expand_braces(pattern) == names


@pytest.mark.parametrize(
    "pattern",
    [
        "{0..1000000}",
        "{0..99999999999}.tar",
        "{000..999}{000..999}{0,1}",
        40 * "{0,1}",
        "{0..{9,9999999999}}",
        "{" + 1_000_000 * "," + "}",
        f"{{0..{250 * '9'}}}",
        f"{{0..{5000 * '9'}}}",
    ],
    ids=lambda pattern: pattern[:20],
)
@pytest.mark.parametrize("start", ["", "https://user:hunter2@host/"])
def test_too_many_names_are_refused_at_once(pattern, start):
    with pytest.raises(
        UserError, match=r"more than 1,000,000 shards|more than 255 digits"
    ) as error:
        expand_braces(f"{start}{pattern}.tar?token=hunter2")
    assert "hunter2" not in str(error.value)
    assert len(str(error.value)) < 200


def test_as_many_names_as_are_allowed(monkeypatch):
    monkeypatch.setattr(patterns, "MOST_SHARDS", 6)
    assert len(expand_braces("{0..2}{0,1}")) == 6
    with pytest.raises(UserError, match="more than 6 shards"):
        expand_braces("{0..6}")


def test_names_that_no_file_can_have_are_missing(tmp_path):
    for name in (f"{tmp_path}/{300 * 'x'}.tar", f"{tmp_path}/{{{300 * 'x'},y}}.tar", "a\0b.tar"):
        with pytest.raises(UserError, match="no shard matches"):
            find_shards(name)


def test_pipes_and_devices_are_named_and_passed_over(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    pack(folder / "0.tar", [("a.png", encoded(1)), ("b.png", encoded(2))])
    os.mkfifo(folder / "1.tar")
    (folder / "2.tar").symlink_to("/dev/zero")
    (folder / "3.tar").symlink_to("1.tar")
    source = ShardSource(find_shards(folder))
    assert list(source.names) == ["a", "b"]
    assert [name.removeprefix(f"{folder}/") for name, _ in source.left_out] == [
        "1.tar", "2.tar", "3.tar",
    ]  # fmt: skip
    reasons = [reason for _, reason in source.left_out]
    assert ["named pipe" in reasons[0], "device" in reasons[1], "named pipe" in reasons[2]] == [
        True, True, True,
    ]  # fmt: skip
    assert len(source.damaged) == 3


def test_a_shard_that_is_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(UserError, match=r"no sample of .*a\.tar: damaged \(is a named pipe, not"):
        ShardSource(find_shards(tmp_path / "a.tar"))


def test_a_pipe_in_place_of_an_indexed_shard_does_not_block(tmp_path):
    shard = pack(tmp_path / "a.tar", [("a.png", encoded(1)), ("b.png", encoded(2))])
    source = ShardSource([shard])
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(Exception, match="named pipe"):
        source.image(0)
