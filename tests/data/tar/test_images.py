import gzip
import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.packing import encoded, pack
from helpers.pictures import NO_IMAGE
from helpers.refusal import refused
from PIL import Image

from sogclr import UserError
from sogclr.commands.cli import main
from sogclr.data.batches.loaders import view_batches
from sogclr.data.batches.schedule import ShuffledSchedule
from sogclr.data.decode import UnreadableImageError
from sogclr.data.image_source import NO_LABEL
from sogclr.data.open_images import open_images, require_undamaged
from sogclr.data.randomness import stable_id
from sogclr.data.tar import index as shard_index
from sogclr.data.tar.images import ShardSource
from sogclr.data.tar.patterns import find_shards

FAST = ["--encoder", "small", "--image-size", "8", "--batch-size", "8", "--device", "cpu"]
BLOCK = tarfile.BLOCKSIZE


def sample(number):
    """Image and label of one of four classes, with a part that nobody reads between them."""
    key = f"set/{number:04d}"
    return [
        (f"{key}.cls", str(3 * (number % 4)).encode()),
        (f"{key}.txt", b"a photo"),
        (f"{key}.png", encoded(number)),
    ]


def flat(numbers):
    return [member for number in numbers for member in sample(number)]


@pytest.fixture
def make_shards(tmp_path):
    """Samples 0 to `count`, spread evenly over so many shards: the pattern that names them."""

    def make(shards=3, count=40, name="photos"):
        folder = tmp_path / f"{name}-in-{shards}"
        folder.mkdir()
        for shard, numbers in enumerate(np.array_split(np.arange(count), shards)):
            pack(folder / f"{name}-{shard:03d}.tar", flat(numbers))
        return str(folder / f"{name}-{{000..{shards - 1:03d}}}.tar")

    return make


def first_of(pattern):
    return find_shards(pattern)[0]


def test_pixels_labels_and_names_are_those_of_the_members(make_shards):
    source = open_images(make_shards())
    assert len(source) == 40
    assert list(source.names) == [f"set/{number:04d}" for number in range(40)]
    assert source.names[-3:] == ["set/0037", "set/0038", "set/0039"]
    assert source.classes == ["0", "3", "6", "9"]
    assert source.labels.tolist() == [number % 4 for number in range(40)]
    assert source.image_size == 10
    for row in range(40):
        with Image.open(io.BytesIO(encoded(row))) as image:
            assert np.array_equal(np.asarray(source.image(row)), np.asarray(image))


def test_ids_do_not_depend_on_the_sharding(make_shards):
    two, five = open_images(make_shards(2)), open_images(make_shards(5))
    assert two.ids.tolist() == five.ids.tolist() == [stable_id(name) for name in two.names]
    assert two.marks.tolist() == five.marks.tolist()
    assert two.image_size == five.image_size


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_share_every_sample_once_an_epoch(make_shards, accumulate):
    source = open_images(make_shards())
    seen: dict[int, list[int]] = {0: [], 1: []}
    for rank in (0, 1):
        plan = ShuffledSchedule(source.ids, 12, accumulate, 2, seed=1, rank=rank, processes=2)
        for batch in view_batches(source, plan, image_size=8, crop_min=0.2, workers=0):
            assert not batch.unreadable
            seen[batch.micro_batch.epoch] += batch.micro_batch.rows.tolist()
    assert [sorted(rows) for rows in seen.values()] == [list(range(40))] * 2


def test_an_epoch_mixes_all_shards(make_shards):
    source = open_images(make_shards(2))
    first = next(iter(ShuffledSchedule(source.ids, 20, 1, 1, seed=0))).rows
    assert 4 <= (first < 20).sum() <= 16


def _batches(source, start, workers):
    plan = ShuffledSchedule(source.ids, 8, 1, 2, seed=3)
    plan.start_step = start
    return list(view_batches(source, plan, image_size=8, crop_min=0.2, workers=workers))


def _same(some, others):
    for one, other in zip(some, others, strict=True):
        assert np.array_equal(one.micro_batch.rows, other.micro_batch.rows)
        assert torch.equal(one.crops, other.crops)


def test_loader_processes_change_nothing(make_shards):
    source = open_images(make_shards())
    _same(_batches(source, 0, workers=0), _batches(source, 0, workers=2))


def test_a_process_that_is_not_forked_reads_the_same(make_shards):
    source = open_images(make_shards())
    sent = pickle.loads(pickle.dumps(source))
    assert sent.names[7] == source.names[7]
    assert np.array_equal(np.asarray(sent.image(7)), np.asarray(source.image(7)))


def test_resumed_within_an_epoch_is_the_rest_of_it(make_shards):
    pattern = make_shards()
    whole = _batches(open_images(pattern), 0, workers=0)
    _same(whole[3:], _batches(open_images(pattern), 3, workers=0))


def test_a_run_goes_on_with_other_shards_of_the_same_samples(make_shards, tmp_path, capsys):
    run = str(tmp_path / "run")
    main(["pretrain", make_shards(2), "--out", run, "--epochs", "1", *FAST])
    assert "40 images in 2 shards, with labels of 4 classes" in capsys.readouterr().err
    main(["pretrain", make_shards(5), "--out", run, "--resume"])
    assert "the data has changed" not in capsys.readouterr().err
    main(["evaluate", run, make_shards(4), "--protocol", "knn"])
    main(["embed", run, make_shards(3), "--out", str(tmp_path / "x.npz")])
    stored = np.load(tmp_path / "x.npz")
    assert stored["paths"].tolist() == [f"set/{number:04d}" for number in range(40)]


def test_shards_are_read_again_only_where_they_changed(make_shards, monkeypatch):
    pattern = make_shards()
    before = open_images(pattern)
    pack(first_of(pattern), flat([100, 101]))
    read = []
    original = shard_index.read_headers
    monkeypatch.setattr(
        shard_index,
        "read_headers",
        lambda file, size: read.append(Path(file.name)) or original(file, size),
    )
    after = open_images(pattern)
    assert read == [first_of(pattern)]
    assert list(after.names) == ["set/0100", "set/0101", *before.names[14:]]
    again = open_images(pattern)
    assert len(read) == 1
    for name in ("ids", "marks", "labels", "image_size", "left_out", "classes"):
        assert np.array_equal(getattr(again, name), getattr(after, name))
    assert list(again.names) == list(after.names)


def test_a_damaged_cache_is_no_obstacle(make_shards):
    pattern = make_shards()
    before = open_images(pattern)
    shard_index._cache_file(first_of(pattern)).write_bytes(b"PK\x03\x04")
    assert open_images(pattern).ids.tolist() == before.ids.tolist()


def test_a_shard_that_changes_or_goes_while_in_use_gives_no_other_image(make_shards):
    pattern = make_shards()
    source = open_images(pattern)
    pack(first_of(pattern), flat(range(1, 15)))
    with pytest.raises(UnreadableImageError, match="has changed since"):
        source.image(0)
    first_of(pattern).unlink()
    with pytest.raises(UnreadableImageError) as error:
        source.image(0)
    assert error.value.args == ("photos-000.tar: set/0000", "no such file or directory")
    source.image(39)


@pytest.mark.parametrize("part", ["jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif", "JPG"])
def test_every_image_part_is_read(tmp_path, part):
    format = {"jpg": "JPEG", "tif": "TIFF"}.get(part.lower(), part)
    members = [(f"{i}.{part}", encoded(i, format)) for i in range(2)]
    image = open_images(pack(tmp_path / "a.tar", members)).image(1)
    assert (image.mode, image.size) == ("RGB", (12, 10))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([("cls", b"5\n"), ("cls", b"7"), ("cls", b"5")], [0, 1, 0]),
        ([("cls.txt", b"5"), ("json", b'{"label": 7}'), ("cls", b"7")], [0, 1, 1]),
        ([("cls", b"5"), ("cls", b"cat"), ("cls", b"7")], None),
        ([("cls", b"5"), ("cls", b"-1"), ("cls", b"7")], None),
        ([("json", b'{"label": "7"}'), ("json", b"[7]"), ("json", b"{")], None),
        ([("cls", b"5"), ("txt", b"7"), ("cls", b"7")], None),
    ],
)
def test_labels_are_integers_of_at_least_two_classes(tmp_path, labels, expected):
    members = [(f"{i}.{part}", content) for i, (part, content) in enumerate(labels)]
    images = [(f"{i}.png", encoded(i)) for i in range(3)]
    source = open_images(pack(tmp_path / "a.tar", members + images))
    assert (source.labels if expected is None else source.labels.tolist()) == expected
    if expected is None and "cls" in (part for part, _ in labels):
        assert "without labels: 1 of them have none" in source.describe()


@pytest.mark.parametrize(
    "odd", [("cls", b"cat"), ("json", b"{"), ("cls.txt", b"-3"), ("txt", b"5")]
)
def test_a_sample_without_a_label_costs_its_own_alone(tmp_path, odd):
    labels = [("cls", b"7"), odd, ("cls", b"5"), ("cls", b"7"), ("cls", b"6")]
    members = [(f"{i}.{part}", content) for i, (part, content) in enumerate(labels)]
    images = [(f"{i}.png", encoded(i)) for i in range(5)]
    source = open_images(pack(tmp_path / "a.tar", members + images))
    assert source.labels.tolist() == [2, NO_LABEL, 0, 2, 1]
    assert source.classes == ["5", "6", "7"]
    assert "with labels of 3 classes, 1 have no label" in source.describe()


def test_long_and_odd_names_and_a_leading_dot_are_kept_apart_right(tmp_path):
    long = "deep/" * 60 + "ü\udcff x"
    names = [f"./{long}.png", "./v1.5/a.png", "._hidden.png", "README"]
    source = open_images(pack(tmp_path / "a.tar", [(name, encoded(0)) for name in names]))
    # What follows the first dot of the base name is the part, dots of folders do not count.
    assert list(source.names) == [long, "v1.5/a"]
    assert source.ids.tolist() == [stable_id(long), stable_id("v1.5/a")]


def test_samples_without_an_image_are_listed(tmp_path):
    members = [
        *flat(range(2)),
        ("b.txt", b"text"),
        ("photo.v2.jpg", encoded(0, "JPEG")),
        ("link.jpg", None),
    ]
    source = open_images(pack(tmp_path / "a.tar", members))
    assert source.left_out == [
        ("b", "no image, only txt"),
        ("photo", "no image, only v2.jpg"),
        ("link", "no image, only jpg that is a link"),
    ]
    assert "left out: b: no image, only txt; photo: " in source.describe()


def test_an_image_that_cannot_be_decoded_is_skipped_and_named(tmp_path):
    members = [(f"{i}.png", b"x" if i == 2 else encoded(i)) for i in range(6)]
    source = open_images(pack(tmp_path / "a.tar", members))
    plan = ShuffledSchedule(source.ids, 6, 1, 1, seed=0)
    (batch,) = view_batches(source, plan, image_size=8, crop_min=0.2, workers=0)
    assert sorted(batch.micro_batch.rows) == [0, 1, 3, 4, 5]
    assert batch.unreadable == [("a.tar: 2", NO_IMAGE)]


def _offset(path, name):
    with tarfile.open(path) as archive:
        return archive.getmember(name).offset


DAMAGE = {
    "cut within an image": lambda p: os.truncate(p, _offset(p, "set/0009.png") + BLOCK + 100),
    "cut within a header": lambda p: os.truncate(p, _offset(p, "set/0009.txt") + 100),
    "cut between members": lambda p: os.truncate(p, _offset(p, "set/0009.png")),
    "a header overwritten": lambda p: _overwrite(p, _offset(p, "set/0009.txt")),
}


def _overwrite(path, offset):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xaa" * BLOCK)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shard_is_named_and_counts_up_to_the_damage(make_shards, damage):
    pattern = make_shards()
    DAMAGE[damage](first_of(pattern))
    source = open_images(pattern)
    assert list(source.names) == [f"set/{i:04d}" for i in range(40) if not 9 <= i < 14]
    ((name, reason),) = source.left_out
    assert name == str(first_of(pattern))
    assert "damaged" in reason
    assert "only its first 9 images are kept" in reason
    assert f"left out: {name}: {reason}" in source.describe()
    for row in range(len(source)):
        source.image(row)


def test_damage_is_refused_where_asked_and_the_run_remembers(make_shards, tmp_path, capsys):
    pattern, run = make_shards(), tmp_path / "run"
    start = ["pretrain", pattern, "--out", run, "--epochs", "1", *FAST, "--on-damaged", "refuse"]
    whole = first_of(pattern).read_bytes()
    DAMAGE["cut within an image"](first_of(pattern))
    line = refused(capsys, *start)
    assert f"data: damaged: {first_of(pattern)}: damaged (truncated), only its first" in line
    assert "--on-damaged skip" in line
    assert not run.exists()
    first_of(pattern).write_bytes(whole)
    main([str(argument) for argument in start])
    DAMAGE["a header overwritten"](first_of(pattern))
    assert "no header of a member" in refused(capsys, "pretrain", pattern, "--out", run, "--resume")
    main(["pretrain", pattern, "--out", str(tmp_path / "other"), "--epochs", "1", *FAST])


def test_samples_without_an_image_are_not_damage(tmp_path):
    source = open_images(pack(tmp_path / "a.tar", [*flat(range(3)), ("b.txt", b"text")]))
    assert source.left_out
    require_undamaged(source.damaged, "refuse")


def test_what_lies_behind_the_end_of_a_shard_is_not_lost_silently(tmp_path):
    parts = [pack(tmp_path / f"{i}", flat([2 * i, 2 * i + 1])).read_bytes() for i in range(2)]
    (tmp_path / "both.tar").write_bytes(parts[0] + parts[1])
    source = open_images(tmp_path / "both.tar")
    assert "no header of a member at byte" in source.describe()


def test_damage_is_looked_at_again(make_shards):
    pattern = make_shards()
    whole = first_of(pattern).read_bytes()
    time = first_of(pattern).stat().st_mtime_ns
    _overwrite(first_of(pattern), 0)
    os.utime(first_of(pattern), ns=(time, time))
    assert len(open_images(pattern)) == 26
    first_of(pattern).write_bytes(whole)
    os.utime(first_of(pattern), ns=(time, time))
    assert len(open_images(pattern)) == 40


def test_a_key_in_two_shards_is_refused(make_shards, tmp_path):
    pack(tmp_path / "a.tar", flat([0, 1, 2]))
    pack(tmp_path / "b.tar", flat([3, 2]))
    with pytest.raises(UserError, match=r"a\.tar and .*b\.tar both have a sample set/0002 \(1 "):
        open_images(str(tmp_path / "{a,b}.tar"))
    pack(tmp_path / "a.tar", flat([0, 1, 0]))
    with pytest.raises(UserError, match=r"a\.tar has set/0000\.cls twice"):
        open_images(tmp_path / "a.tar")


def test_patterns_stand_for_what_they_do_in_a_shell(tmp_path):
    names = ["a-8", "a-9", "a-10", "b-8", "b-9", "b-10", "c-08", "c-09", "c-10"]
    for name in names:
        (tmp_path / f"{name}.tar").touch()

    def found(pattern):
        return [path.stem for path in find_shards(tmp_path / pattern)]

    assert found("{a,b}-{8..10}.tar") == names[:6]
    assert found("c-{08..10}.tar") == names[6:]
    assert found("a-8.tar") == ["a-8"]
    many = [f"{number:07d}" for number in range(100)]
    for name in many:
        (tmp_path / f"{name}.tar").touch()
    assert found(f"{{{','.join(many)}}}.tar") == many


def test_a_folder_of_shards_is_one_source_and_a_folder_of_images_is_another(
    make_shards, make_folder, tmp_path
):
    pattern = make_shards()
    folder = Path(pattern).parent
    (folder / "sizes.json").touch()
    assert open_images(folder).ids.tolist() == open_images(pattern).ids.tolist()
    photos = make_folder()
    pack(photos / "a.tar", flat(range(3)))
    assert len(open_images(photos)) == 16


def test_bad_shards_are_one_line(make_shards, tmp_path, capsys):
    def line(data):
        return refused(capsys, "pretrain", data, "--out", tmp_path / "run")

    missing = tmp_path / "none-{0..3}.tar"
    assert f"no shard matches {missing}" in line(missing)
    assert "none.tar does not exist" in line(tmp_path / "none.tar")
    pattern = make_shards()
    first_of(pattern).unlink()
    assert "1 of the 3 shards" in line(pattern)
    assert "000.tar); add them" in line(pattern)

    packed = tmp_path / "packed" / "a.tar.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(b"x"))
    for data in (packed, packed.parent):
        assert "a.tar.gz is compressed; unpack it" in line(data)
    disguised = tmp_path / "disguised.tar"
    packed.rename(disguised)
    assert "disguised.tar is compressed" in line(disguised)

    (tmp_path / "page.tar").write_bytes(b"<html>" * 500)
    text = line(tmp_path / "page.tar")
    assert "no sample of" in text
    assert "damaged" in text
    pack(tmp_path / "texts.tar", [("a.txt", b"x")])
    assert "has a part jpg, jpeg" in line(tmp_path / "texts.tar")
    pack(tmp_path / "noise.tar", [("a.jpg", b"x"), ("b.jpg", b"y")])
    assert "none of 2 samples" in line(tmp_path / "noise.tar")
    assert not (tmp_path / "run").exists()


def test_from_python_shards_are_a_list_of_files(make_shards):
    pattern = make_shards()
    source = ShardSource(find_shards(pattern)[1:])
    assert len(source) == 26
    assert open_images(source) is source
