"""Tar shards by URL: what comes of lost connections, of servers that refuse, of damage."""

import tarfile

import pytest
from helpers.packing import pack
from helpers.serving import serving

from sogclr import UserError
from sogclr.data.tar import http as urls
from sogclr.data.tar.http import expand_urls, is_url, read_members, without_query

# The long name takes headers of its own; the last content ends where a block does.
FILES = [
    ("a.txt", b"one"),
    ("b/" + 150 * "c" + ".png", 3000 * b"two"),
    ("d", b""),
    ("e", 512 * b"x"),
]


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(urls, "PAUSE", 0)


@pytest.fixture
def shard(tmp_path):
    return pack(tmp_path / "one.tar", FILES)


def test_files_come_in_order(shard):
    assert list(read_members(shard.as_uri())) == FILES
    with serving(shard.parent) as (address, asked):
        assert list(read_members(f"{address}/one.tar?token=secret")) == FILES
    assert asked == ["/one.tar?token=secret"]


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_links_and_folders_are_passed_over(tmp_path, format):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"image")
    (tmp_path / "photos" / "b.png").symlink_to("a.png")
    with tarfile.open(tmp_path / "one.tar", "w", format=format) as archive:
        archive.add(tmp_path / "photos", "photos")
    assert list(read_members((tmp_path / "one.tar").as_uri())) == [("photos/a.png", b"image")]


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
        found = read_members(f"{address}/one.tar")
        assert next(found) == FILES[0]
        with pytest.raises(UserError, match="lost at byte 2,000 of"):
            next(found)
    assert len(asked) == 5


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


def test_what_is_a_url():
    assert all(map(is_url, ["https://a/b.tar", "file:///b.tar", "s3://bucket/{0..9}.tar"]))
    assert not any(map(is_url, ["photos", "a/b.tar", "C:/b.tar", 3, None]))
    assert expand_urls("http://a/{0..1}/b.tar?c") == ["http://a/0/b.tar?c", "http://a/1/b.tar?c"]
    assert without_query("http://a/b.tar?c=d") == "http://a/b.tar"
    with pytest.raises(UserError, match="s3:// is not read here; give shards by https://"):
        expand_urls("s3://bucket/a.tar")
