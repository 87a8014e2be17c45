"""Pairs in shards are the pairs of a table."""

import csv
import json
import pickle

import numpy as np
import pytest
from helpers.packing import encoded, pack
from helpers.refusal import refused

from sogclr import UserError
from sogclr.data.open_pairs import are_pairs, open_pairs
from sogclr.data.randomness import stable_id
from sogclr.data.texts import UnreadableTextError, captions_in


def _captions(number):
    """One to three of each sample, of which one may be that of other samples too."""
    own = [f"caption {k}  of\n{number}" for k in range(number % 3)]
    return [*own, f"a thing of kind {number % 4}"]


@pytest.fixture
def table(tmp_path):
    (tmp_path / "img").mkdir()
    rows = []
    for number in range(24):
        (tmp_path / "img" / f"{number:02d}.png").write_bytes(encoded(number))
        rows += [(f"img/{number:02d}.png", caption) for caption in _captions(number)]
    with open(tmp_path / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *rows])
    return tmp_path / "t.csv"


def _sample(number, captions):
    """A sample of these captions, in txt if there is one, else in json."""
    parts = [(f"img/{number:02d}.png", encoded(number))]
    if len(captions) == 1:
        return [(f"img/{number:02d}.txt", captions[0].encode()), *parts]
    return [*parts, (f"img/{number:02d}.json", json.dumps({"captions": captions}).encode())]


@pytest.fixture
def make_shards(tmp_path):
    """The pairs of the table in so many shards: the pattern that names them."""

    def make(count=3):
        (tmp_path / f"in-{count}").mkdir()
        for shard, numbers in enumerate(np.array_split(np.arange(24), count)):
            members = [part for n in numbers.tolist() for part in _sample(n, _captions(n))]
            pack(tmp_path / f"in-{count}" / f"{shard}.tar", members)
        return str(tmp_path / f"in-{count}" / f"{{0..{count - 1}}}.tar")

    return make


def test_a_table_and_shards_of_the_same_pairs_are_the_same(table, make_shards):
    """But for the ids of images, hashes of a path there and of a key here."""
    expected, found = open_pairs(table), open_pairs(make_shards())
    assert found.kinds == expected.kinds == ("image", "text")
    assert list(found.b.texts) == expected.b.texts
    for name in ("start", "partners"):
        assert np.array_equal(getattr(found, name), getattr(expected, name))
    for name in ("ids", "marks", "lengths"):
        assert np.array_equal(getattr(found.b, name), getattr(expected.b, name))
    assert np.array_equal(found.owners(), expected.owners())
    assert [f"{key}.png" for key in found.a.names] == expected.a.names
    assert found.a.ids.tolist() == [stable_id(key) for key in found.a.names]
    assert np.array_equal(found.a.marks, expected.a.marks)
    for row in range(24):
        assert np.array_equal(np.asarray(found.a.image(row)), np.asarray(expected.a.image(row)))
    assert found.left_out == expected.left_out == []
    assert "24 images with 48 texts" in found.describe()


def test_pairs_do_not_depend_on_the_sharding_the_cache_or_the_process(make_shards):
    one = open_pairs(make_shards(2))
    five = make_shards(5)
    for other in (open_pairs(five), open_pairs(five), pickle.loads(pickle.dumps(one))):
        assert list(other.b.texts) == list(one.b.texts)
        for name in ("start", "partners"):
            assert np.array_equal(getattr(other, name), getattr(one, name))
        rows = np.arange(24)
        assert np.array_equal(other.draw(1, 2, rows), one.draw(1, 2, rows))


def test_a_text_is_looked_up_as_in_a_list(table, make_shards):
    expected, found = open_pairs(table).b.texts, open_pairs(make_shards()).b.texts
    assert found[-1] == expected[-1]
    assert found[3:9:2] == expected[3:9:2]
    assert found[np.int64(4)] == expected[4]
    with pytest.raises(IndexError):
        found[len(expected)]


@pytest.mark.parametrize(
    ("part", "content", "captions"),
    [
        ("txt", "\ufeff a  dog\n\nin snow ".encode(), ["a dog in snow"]),
        ("txt", b" \n", []),
        ("txt", b"\xff\xfe\x00", []),
        ("json", b'{"caption": "a dog", "label": 3}', ["a dog"]),
        ("json", b'{"caption": ["a dog", "", 7, "snow"]}', ["a dog", "snow"]),
        ("json", b'{"captions": ["a"], "caption": "b"}', ["a"]),
        ("json", b'{"caption": "half \\ud83d"}', ["half ?"]),
        ("json", b'{"caption": null}', []),
        ("json", b'["a dog"]', []),
        ("json", b"{", []),
    ],
)
def test_captions_are_what_txt_or_json_say(part, content, captions):
    assert captions_in(part, content) == captions


def test_of_two_parts_txt_is_taken_and_if_it_is_empty_json(tmp_path):
    told = b'{"caption": "of json"}'
    members = [
        ("a.json", told), ("a.png", encoded(0)), ("a.txt", b"of txt"),
        ("b.json", told), ("b.png", encoded(1)), ("b.txt", b""),
    ]  # fmt: skip
    source = open_pairs(pack(tmp_path / "a.tar", members))
    assert list(source.b.texts) == ["of txt", "of json"]


def test_samples_without_a_caption_and_copies_are_left_out_and_told(tmp_path):
    twice = json.dumps({"captions": ["x", "y", " x"]}).encode()
    members = [
        ("none.png", encoded(0)), ("a.png", encoded(1)), ("a.json", twice),
        ("text.txt", b"alone"), ("b.png", encoded(2)), ("b.txt", b"y"),
    ]  # fmt: skip
    source = open_pairs(pack(tmp_path / "a.tar", members))
    assert list(source.a.names) == ["a", "b"]
    assert list(source.b.texts) == ["x", "y"]
    assert np.diff(source.start).tolist() == [2, 1]
    assert source.left_out == [
        "text: no image, only txt; none: no caption in txt or json",
        "1 copies of a sample's captions",
    ]


def test_a_damaged_shard_is_told_of_pairs_as_well(make_shards, tmp_path):
    pattern = make_shards()
    shard = tmp_path / "in-3" / "1.tar"
    shard.write_bytes(shard.read_bytes()[:-12_000])
    source = open_pairs(pattern)
    assert len(source.a) < 24
    (damage,) = source.damaged
    assert damage.startswith(f"{shard}: damaged (truncated")
    assert source.left_out == [damage]


def test_a_caption_whose_shard_changes_is_named_not_another_one_given(make_shards, tmp_path):
    source = open_pairs(make_shards())
    (tmp_path / "in-3" / "0.tar").write_bytes(b"")
    row = list(source.b.ids).index(stable_id("a thing of kind 0"))
    with pytest.raises(UnreadableTextError) as error:
        source.b.texts[row]
    name, reason = error.value.args
    assert name == source.b.names[row]
    assert name.startswith("0.tar: caption at byte ")
    assert reason == "the shard has changed since it was indexed"
    assert source.b.texts[-1]


def test_shards_are_pairs_if_they_have_captions(make_shards, tmp_path, capsys):
    pattern = make_shards()
    images = pack(tmp_path / "images.tar", [(f"{i}.png", encoded(i)) for i in range(3)])
    assert are_pairs(pattern)
    assert not are_pairs(images)
    assert not are_pairs(str(tmp_path / "img"))
    with pytest.raises(UserError, match="columns: shards have none"):
        open_pairs(pattern, "image,caption")
    line = refused(capsys, "align", images, "--out", tmp_path / "run")
    assert "images.tar has both an image and a caption, a part txt or `caption` in json" in line


@pytest.mark.parametrize("content", [b"PK\3\4" + b"\0" * 600, b"\x89PNG" * 200, b"words " * 200])
def test_files_that_are_no_archives_are_damage(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(UserError, match=r"no sample .* \(\S+a\.tar is damaged: .+\); for"):
        open_pairs(str(tmp_path / "a.tar"))
