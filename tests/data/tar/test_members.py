"""Tar shards by URL: what comes of lost connections, of servers that refuse, of damage."""

import tarfile

import pytest
from helpers.flaky_files import flaky_files
from helpers.packing import pack
from helpers.serving import answering, serving
from helpers.tar_headers import DAMAGING, END, SPARSE, member

from sogclr import UserError
from sogclr.data.tar import members, remote
from sogclr.data.tar.members import Member
from sogclr.data.tar.remote import Patience

# The long name takes headers of its own; the last content ends where a block does.
FILES = [
    Member("a.txt", b"one"),
    Member("b/" + 150 * "c" + ".png", 3000 * b"two"),
    Member("d", b""),
    Member("e", 512 * b"x"),
]


def read_members(url, largest=1 << 20, seconds=60):
    return members.read_members(url, lambda _: largest, Patience(seconds, "no sample"))


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(members, "PAUSE", 0)


@pytest.fixture
def shard(tmp_path):
    return pack(tmp_path / "one.tar", [file[:2] for file in FILES])


def test_files_come_in_order(shard):
    assert list(read_members(shard.as_uri())) == FILES
    with serving(shard.parent) as (address, asked):
        assert list(read_members(f"{address}/one.tar?token=secret")) == FILES
    assert asked == ["/one.tar?token=secret"]


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_folders_are_passed_over_and_links_named(tmp_path, format):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"image")
    (tmp_path / "photos" / "b.png").symlink_to("a.png")
    with tarfile.open(tmp_path / "one.tar", "w", format=format) as archive:
        archive.add(tmp_path / "photos", "photos")
    assert list(read_members((tmp_path / "one.tar").as_uri())) == [
        Member("photos/a.png", b"image"),
        Member("photos/b.png", b"", "a link"),
    ]


@pytest.mark.parametrize(
    "failures",
    [[503], [429, 500], [-100], [-512, -4000], [-2000, None], [-1, -1, -1, -1]],
    ids=str,
)
def test_a_lost_connection_is_made_anew(shard, failures):
    with serving(shard.parent, failures) as (address, asked):
        assert list(read_members(f"{address}/one.tar")) == FILES
    assert len(asked) == len([failure for failure in failures if failure is not None]) + 1


@pytest.mark.parametrize(
    ("failures", "reason", "times"),
    [([404], "404 Not Found", 1), ([403], "403 Forbidden", 1), (9 * [503], "503", 5)],
)
def test_a_server_that_refuses_is_told(shard, failures, reason, times):
    with serving(shard.parent, failures) as (address, asked):
        told = rf"cannot read {address}/one\.tar \({reason}.*--resume"
        with pytest.raises(UserError, match=told) as error:
            list(read_members(f"{address}/one.tar?token=secret"))
    assert "secret" not in str(error.value)
    assert len(asked) == times


def test_a_connection_that_is_always_lost_at_one_place_is_told(shard):
    with serving(shard.parent, 9 * [-2000]) as (address, asked):
        found = []
        with pytest.raises(UserError, match=r"one\.tar \(connection lost"):
            found.extend(read_members(f"{address}/one.tar"))
    # aiohttp may drop what it received before the loss. With progress the attempts start anew.
    assert found in ([], FILES[:1])
    assert 5 <= len(asked) <= 9


def test_nobody_there_is_told(tmp_path):
    with pytest.raises(UserError, match=r"cannot read file:.*none\.tar \(No such file"):
        list(read_members((tmp_path / "none.tar").as_uri()))
    with pytest.raises(UserError, match=r"cannot read http://127\.0\.0\.1:1/a\.tar \("):
        list(read_members("http://127.0.0.1:1/a.tar"))


@pytest.mark.parametrize(
    ("kept", "error"),
    [
        (0, "empty"),
        (700, "unexpected end of data"),
        (1024, "mark of its end is missing"),
        (1300, "truncated"),
        (3000, "truncated"),
    ],
)
def test_a_shard_that_breaks_off_is_damaged(shard, kept, error):
    shard.write_bytes(shard.read_bytes()[:kept])
    with pytest.raises(tarfile.TarError, match=error):
        list(read_members(shard.as_uri()))


def test_a_header_that_cannot_be_read_is_damage(shard):
    content = bytearray(shard.read_bytes())
    content[1024 + 148] ^= 255  # the checksum of the second member's first header
    shard.write_bytes(content)
    found = read_members(shard.as_uri())
    assert next(found) == FILES[0]
    with pytest.raises(tarfile.TarError, match="a damaged header"):
        next(found)


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz"])
def test_compressed_shards_are_named(tmp_path, suffix):
    with tarfile.open(tmp_path / "one.tar", f"w:{suffix}") as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(tarfile.TarError, match=r"compressed with \w+, unpack it"):
        list(read_members((tmp_path / "one.tar").as_uri()))


@pytest.mark.parametrize("name", DAMAGING)
@pytest.mark.parametrize("end", [b"", END, member("z", b"lost") + END], ids=len)
def test_hostile_headers_are_damage(tmp_path, name, end):
    shard = tmp_path / "one.tar"
    shard.write_bytes(member("a.png", b"content") + DAMAGING[name] + end)
    found = []
    with serving(tmp_path) as (address, _), pytest.raises(tarfile.TarError):
        found.extend(read_members(f"{address}/one.tar"))
    assert [each for each in found if each.problem is None] == [Member("a.png", b"content")]


@pytest.mark.parametrize("name", SPARSE)
def test_sparse_members_are_named(tmp_path, name):
    shard = tmp_path / "one.tar"
    shard.write_bytes(SPARSE[name] + member("c.png", b"content") + END)
    sparse = Member("b.png", b"", "sparse")
    assert list(read_members(shard.as_uri())) == [sparse, Member("c.png", b"content")]


def test_members_that_are_too_large_or_not_wanted_are_not_read(shard):
    found = list(read_members(shard.as_uri(), largest=600))
    problems = [each.problem for each in found]
    assert problems == [None, "9,000 bytes long, more than the 600 that are read", None, None]
    assert found[1].content == b""
    assert {each.problem for each in read_members(shard.as_uri(), largest=0)} == {"not wanted"}


def test_a_server_that_waits_is_asked_twice(shard, monkeypatch):
    monkeypatch.setattr(remote, "TIMEOUT", 0.2)

    def answer(send, stopped):
        stopped.wait()

    with answering(answer) as (address, requests):
        with pytest.raises(UserError, match=r"a\.tar \(no answer within 0\.2 s\)"):
            list(read_members(f"{address}/a.tar"))
        assert len(requests) == 2


@pytest.fixture
def flaky(shard, monkeypatch):
    monkeypatch.setattr(remote, "BLOCK", 700)
    with flaky_files(shard.parent) as (url, errors):
        yield f"{url}/one.tar", errors


@pytest.mark.parametrize(
    "errors",
    [
        [OSError("reset")],
        [None, None, None, RuntimeError("throttled")],
        [None, TimeoutError(), None, OSError(), None, None, None, None, None, ConnectionError()],
        4 * [RuntimeError("again")],
    ],
    ids=len,
)
def test_errors_of_any_file_system_are_tried_again(flaky, errors):
    url, coming = flaky
    coming.extend(errors)
    assert list(read_members(url)) == FILES
    assert not coming


PACKAGE = r"flaky:// needs a package: pip install 'sogclr\[remote\]'"


@pytest.mark.parametrize(
    ("errors", "reason", "left"),
    [
        ([None, FileNotFoundError("bucket/one.tar")], "not found", 0),
        ([PermissionError("Access Denied")], "Access Denied", 0),
        ([ValueError("no such region")], "no such region", 0),
        (
            [ImportError("Install s3fs")],
            r"flaky:// needs a package: pip install 'sogclr\[remote\]'",
            0,
        ),
        (9 * [OSError("reset by peer")], "reset by peer", 4),
        (9 * [TimeoutError()], "no answer within 30 s", 7),
        ([*4 * [None], *5 * [RuntimeError()]], "RuntimeError", 0),
    ],
)
def test_errors_that_stay_are_told(flaky, errors, reason, left):
    url, coming = flaky
    coming.extend(errors)
    with pytest.raises(UserError, match=rf"cannot read {url} \({reason}"):
        list(read_members(url))
    assert len(coming) == left
