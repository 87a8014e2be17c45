"""Pairs in a stream: which samples are pairs, with which captions; what is told of the others."""

import json

import pytest
from helpers.packing import encoded, pack

from sogclr import UserError
from sogclr.data.open_pairs import open_pairs
from sogclr.data.randomness import stable_id
from sogclr.data.tar.stream import StreamSource
from sogclr.data.tar.stream_pairs import PairStream


def packed(path, *samples):
    """A shard, of a key and parts each; its URL."""
    members = [(f"{key}.{part}", content) for key, parts in samples for part, content in parts]
    return pack(path, members).as_uri()


def image(seed):
    return "png", encoded(seed)


def test_samples_with_image_and_caption_are_pairs(tmp_path):
    """With the captions that the same shard has on this machine."""
    url = packed(
        tmp_path / "a.tar",
        ("one", [image(1), ("txt", " two\n  words ".encode("utf-8-sig"))]),
        ("text", [("txt", b"alone")]),
        ("several", [("json", json.dumps({"captions": ["b", "a", "b", " "]}).encode()), image(2)]),
        ("image", [image(3)]),
        ("both", [image(4), ("json", b'{"caption": "json"}'), ("txt", b"txt")]),
        ("empty", [image(5), ("txt", b" ")]),
        ("fallback", [image(6), ("txt", b""), ("json", b'{"caption": "json"}')]),
        ("broken", [image(7), ("json", b'{"caption"')]),
    )
    source = PairStream(url, 4)
    found = {sample.name: sample for sample in source.epoch(0, 0)}
    assert {name: set(sample.captions) for name, sample in found.items()} == {
        "one": {"two words"}, "several": {"a", "b"}, "both": {"txt"}, "fallback": {"json"},
    }  # fmt: skip
    assert found["several"].captions == tuple(sorted("ab", key=stable_id))
    assert found["one"].content == encoded(1)
    assert sorted(source.first_captions) == ["a", "b", "json", "two words", "txt"]
    here = open_pairs(str(tmp_path / "a.tar"))
    for row, name in enumerate(here.a.names):
        own = here.partners[here.start[row] : here.start[row + 1]]
        assert tuple(here.b.texts[text] for text in own) == found[name].captions
    assert source.describe() == f"{url}: 1 shard, a stream; an epoch is 4 of its pairs"
    assert (source.kinds, source.image_size, source.sizes) == (("image", "text"), 10, (4, 5))


@pytest.mark.parametrize(
    "text", [b"caf\xe9", b"\xff\xfea\0", "ü".encode("utf-16"), b"a\xed\xa0\x80"]
)
def test_a_caption_that_cannot_be_read_is_named(tmp_path, text):
    good = ("good", [image(1), ("txt", b"words")])
    url = packed(tmp_path / "a.tar", good, ("bad", [image(2), ("txt", text)]))
    found = {sample.name: sample.damage for sample in PairStream(url, 2).epoch(0, 0)}
    assert found == {"good": None, "bad": "its txt is no text in UTF-8"}


def passed_over(capsys):
    """The lines that count samples, and nothing else."""
    return [line for line in capsys.readouterr().err.splitlines() if "passed over" in line]


WORDS, LABEL = ("txt", b"words"), ("cls", b"1")


@pytest.mark.parametrize(
    ("samples", "count", "first"),
    [
        ([("a", [image(1), WORDS]), ("b", [image(2)]), ("c", [WORDS])], 2, "b"),
        ([("a", [("json", b'{"caption": "x"}')]), ("b", [image(2), WORDS])], 1, "a"),
        ([("a", [image(1), WORDS]), ("b", [image(2), ("json", b'{"caption"')])], 1, "b"),
        (
            [("a", [image(1), WORDS]), ("b", [image(2), ("txt", b" ")]), ("c", [LABEL])],
            2,
            "b",
        ),
        ([("a", [image(1), WORDS]), ("b", [image(2), ("txt", b"\xff")])], 0, ""),
        ([("a", [image(1), WORDS]), ("b", [image(2), WORDS])], 0, ""),
    ],
)
def test_what_is_no_pair_is_counted_at_the_end_of_an_epoch(tmp_path, capsys, samples, count, first):
    # More samples than there are, so that the shard is read a second time.
    source = PairStream(packed(tmp_path / "a.tar", *samples), 2 * len(samples))
    for epoch in range(2):
        found = list(source.epoch(0, epoch))
        assert len(found) == len(source)
        lines = passed_over(capsys)
        assert len(lines) == (count > 0)
        if count:
            assert lines[0].startswith(f"epoch {epoch + 1}: passed over {count} sample")
            assert "without both an image that can be read and a caption" in lines[0]
            assert lines[0].endswith(f"(the first: {first})")


def test_images_that_a_stream_lacks_are_counted(tmp_path, capsys):
    names = [("a", [image(1)]), ("b", [WORDS]), ("c", [LABEL]), ("d", [image(2)])]
    source = StreamSource(packed(tmp_path / "a.tar", *names), 2)
    assert {sample.name for sample in source.epoch(0, 0)} == {"a", "d"}
    (line,) = passed_over(capsys)
    assert line.endswith("that can be read (the first: b)")


def test_damage_takes_the_last_pair_before_it(tmp_path):
    shard = tmp_path / "a.tar"
    packed(shard, *((f"{n}", [image(n), ("txt", b"words")]) for n in range(5)))
    # Of the third sample, the image is whole and the header of its caption breaks off.
    shard.write_bytes(shard.read_bytes()[: 2 * 2048 + 1024 + 300])
    source = PairStream(shard.as_uri(), 3)
    found = {sample.name: sample.damage for sample in source.epoch(0, 0)}
    assert set(found) == {"0", "1", shard.as_uri()}
    assert "the samples behind the damage are left out" in found[shard.as_uri()]
    assert source.sizes == (3, 3)


def test_without_pairs_it_is_refused_before_all_shards_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("sogclr.data.tar.stream.SEARCHED", 2)
    for shard in range(2):
        packed(tmp_path / f"{shard}.tar", (f"{shard}", [image(shard)]))
    folder = tmp_path.as_uri()
    told = r"has both an image that can be read and a caption, a part txt or `caption` in json$"
    with pytest.raises(UserError, match=rf"no sample of file:\S+/{{0\.\.1}}\.tar {told}"):
        PairStream(f"{folder}/{{0..1}}.tar", 9)
    with pytest.raises(UserError, match=rf"no sample of the first 2 shards of file:\S+ {told}"):
        PairStream(f"{folder}/{{0..9}}.tar", 9)
