"""URLs: what is one, which are refused, by what a shard is known, and what no message repeats."""

import pytest

from sogclr import UserError
from sogclr.data.tar.urls import (
    expand_urls,
    is_url,
    redact,
    require_random_access,
    shard_identities,
    without_secrets,
)


def test_what_is_a_url():
    assert all(map(is_url, ["https://a/b.tar", "file:///b.tar", "s3://bucket/{0..9}.tar"]))
    assert not any(map(is_url, ["photos", "a/b.tar", "C:/b.tar", 3, None]))
    assert expand_urls("http://a/{0..1}/b.tar?c") == ["http://a/0/b.tar?c", "http://a/1/b.tar?c"]


@pytest.mark.parametrize("scheme", ["https", "HTTP", "hf", "file", "memory"])
def test_schemes_that_fsspec_knows_are_read(scheme):
    url = f"{scheme}:///a.tar" if scheme == "file" else f"{scheme}://a/b.tar"
    assert expand_urls(url) == [url]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nowhere://a/b.tar", "nowhere:// is unknown; give shards by https://, http://, s3://"),
        ("http://:hunter2@/b.tar", "http:///b.tar is no valid URL"),
        ("http:///b.tar", "no valid URL"),
        ("http://[::1/b.tar", "no valid URL"),
        ("http://a:99999/b.tar", "no valid URL"),
        ("https://a:{0..1}/b.tar", "https://a:0/b.tar is no valid URL"),
        ("http://me:hunter2#/b.tar", "no valid URL"),
        ("file://host/b.tar", "no valid URL"),
        ("http://a/{3..1}.tar", r"the pattern http://a/\{3\.\.1\}\.tar stands for no URL"),
    ],
)
def test_odd_urls_are_refused(url, reason):
    with pytest.raises(UserError, match=reason) as error:
        expand_urls(url)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://a/b.tar", "http://a/b.tar"),
        ("http://a/b.tar?token=hunter2", "http://a/b.tar"),
        ("http://a/b.tar#hunter2", "http://a/b.tar"),
        ("http://me:hunter2@a:80/b.tar", "http://a:80/b.tar"),
        ("http://hunter2@a/b.tar#c?d", "http://a/b.tar"),
        ("http://me:@hunter2@a/b.tar", "http://a/b.tar"),
        ("http://me:hunter2/x@a/b.tar", "http://a/b.tar"),
        ("http://me:hunter2?x@a/b.tar", "http://a/b.tar"),
        ("http://me:hunter2#x@a/b.tar", "http://a/b.tar"),
        ("http://[::1]:80/b.tar?hunter2", "http://[::1]:80/b.tar"),
        ("http://a?hunter2/b.tar", "http://a"),
        ("hf://datasets/me/name@main/{0..9}.tar", "hf://datasets/me/name@main/{0..9}.tar"),
        ("s3://key:hunter2@bucket/b.tar", "s3://bucket/b.tar"),
    ],
)
def test_messages_repeat_no_secret(url, shown):
    assert without_secrets(url) == shown
    with pytest.raises(UserError, match="is a stream") as error:
        require_random_access(url)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "text", "shown"),
    [
        ("http://a/b?k=hunter2", "not found: http://a/b?k=hunter2", "not found: http://a/b"),
        ("http://a/b?k=hunter2", "moved to https://c/d?k=hunter2 'x'", "moved to https://c/d 'x'"),
        ("http://me:hunter2@a/b", "user me, password hunter2", "user me, password ..."),
        ("http://me:hunt%20er2@a/b", "'hunt er2' and hunt%20er2", "'...' and ..."),
        ("http://a/b c?k=hunter2 x", "at http://a/b c?k=hunter2 x!", "at http://a/b c!"),
        ("s3://bucket/key", "no bucket of this name", "no bucket of this name"),
    ],
)
def test_messages_of_other_libraries_neither(url, text, shown):
    assert redact(text, url) == shown


def test_shards_are_known_by_what_tells_them_apart():
    """By paths, so that host and token may change; else by hosts and queries too."""
    assert shard_identities(["http://me:x@a/1.tar?t", "http://b/2.tar#f"]) == ["/1.tar", "/2.tar"]
    assert shard_identities(["memory://1.tar", "memory://2.tar"]) == ["1.tar", "2.tar"]
    assert shard_identities(["memory://1.tar"]) == ["1.tar"]
    assert shard_identities(["http://a/x.tar", "http://me@b/x.tar"]) == ["a/x.tar", "b/x.tar"]
    queries = ["http://a/get?shard=1", "http://a/get?shard=2"]
    assert shard_identities(queries) == ["a/get?shard=1", "a/get?shard=2"]


@pytest.mark.parametrize(
    "pattern", ["http://a/{1,2,1}.tar", "http://{u,v}@a/1.tar", "http://a/1.tar#{0..1}"]
)
def test_a_shard_that_is_named_twice_is_refused(pattern):
    with pytest.raises(UserError, match=r"names http://a/1\.tar twice"):
        shard_identities(expand_urls(pattern))


@pytest.mark.parametrize("scheme", ["s3", "gs", "adl"])
def test_the_package_that_a_scheme_needs_is_named(scheme, monkeypatch):
    def load(_):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.get_filesystem_class", load)
    told = rf"{scheme}:// needs a package, pip install 'sogclr\[remote\]' \(Install s3fs"
    with pytest.raises(UserError, match=told):
        expand_urls(f"{scheme}://bucket/a.tar")
