"""Streams of shards: which samples make an epoch, in which order, and what is told of damage."""

import tarfile
from collections import Counter
from itertools import chain, count, islice

import fsspec
import numpy as np
import pytest
import torch
from helpers.flaky_files import flaky_files
from helpers.packing import encoded, pack
from helpers.serving import answering
from helpers.tar_headers import DAMAGING, END, SPARSE, header, member

import sogclr
from sogclr import UserError
from sogclr.data.batches.stream import StreamSchedule, stream_batches
from sogclr.data.decode import UnreadableImageError
from sogclr.data.randomness import uniforms
from sogclr.data.tar.headers import TarHeaders
from sogclr.data.tar.images import ShardSource
from sogclr.data.tar.patterns import find_shards
from sogclr.data.tar.stream import StreamSource, read_ahead
from sogclr.data.tar.stream_sample import StreamSample
from sogclr.data.views.draws import DRAWS

SAMPLES, SHARDS = 40, 5


@pytest.fixture
def make_shards(tmp_path):
    """Shards of 40 images with captions; the pattern, by URL."""

    def make(name="shards", samples=SAMPLES):
        folder = tmp_path / name
        folder.mkdir()
        for shard, numbers in enumerate(np.array_split(np.arange(samples), SHARDS)):
            parts = [
                (f"set/{n:03}.{part}", content)
                for n in numbers.tolist()
                for part, content in (("txt", b"words"), ("png", encoded(n)))
            ]
            pack(folder / f"{shard}.tar", parts)
        return f"{folder.as_uri()}/{{0..{SHARDS - 1}}}.tar"

    return make


def stream(pattern, epoch_samples, **settings):
    """Shards are known by their paths, which differ whenever a test is run: not so here."""
    source = StreamSource(pattern, epoch_samples, **settings)
    source.ids = np.arange(len(source.ids), dtype=np.uint64)
    return source


def names(source, epoch=0, seed=1):
    return [sample.name for sample in source.epoch(seed, epoch)]


@pytest.mark.parametrize("buffer", [1, 7, 4096])
def test_of_all_samples_an_epoch_has_each_once(make_shards, buffer):
    source = stream(make_shards(), SAMPLES, buffer=buffer)
    orders = [names(source, epoch) for epoch in range(3)]
    for order in orders:
        assert sorted(order) == [f"set/{n:03}" for n in range(SAMPLES)]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert names(source) == orders[0] != names(source, seed=2)
    assert (source.image_size, len(source)) == (10, SAMPLES)


def test_without_a_buffer_shards_are_read_one_after_the_other(make_shards):
    order = names(stream(make_shards(), SAMPLES, buffer=1))
    shards = [int(name[-3:]) // 8 for name in order]
    assert shards == sorted(shards, key=shards.index)
    assert shards != sorted(shards)


def test_an_epoch_of_fewer_is_the_first_ones_and_of_more_begins_again(make_shards):
    pattern = make_shards()
    few = [names(stream(pattern, 15, buffer=1), epoch) for epoch in range(20)]
    assert all(len(set(order)) == 15 for order in few)
    assert len({name for order in few for name in order}) == SAMPLES
    whole = names(stream(pattern, SAMPLES, buffer=1))
    assert few[0] == whole[:15]
    many = names(stream(pattern, 2 * SAMPLES + 9, buffer=1))
    assert many[:SAMPLES] == whole != many[SAMPLES : 2 * SAMPLES]
    assert Counter(Counter(many).values()) == {3: 9, 2: SAMPLES - 9}
    assert names(stream(pattern, 15).shorten(6)) != few[0][:6]
    assert sorted(names(stream(pattern, 15).shorten(6))) == sorted(few[0][:6])


@pytest.mark.parametrize("buffer", [3, 6])
def test_samples_are_mixed_evenly(make_shards, monkeypatch, buffer):
    """Of six: who comes first, and who last."""
    source = stream(make_shards(), 6, buffer=buffer)
    six = [StreamSample(str(n), b"") for n in range(6)]
    monkeypatch.setattr(source, "_read", lambda *_: iter(six))
    epochs = 3000
    found = np.array([[int(name) for name in names(source, epoch)] for epoch in range(epochs)])
    first = np.bincount(found[:, 0], minlength=6) / epochs
    expected = [1 / buffer] * buffer + [0] * (6 - buffer)
    # The standard deviation is 0.009 at most.
    assert np.abs(first - expected).max() < 0.04
    last = np.bincount(found[:, -1], minlength=6) / epochs
    stays = [(2 / 3) ** (3 - max(0, n - 2)) / 3 for n in range(6)] if buffer == 3 else [1 / 6] * 6
    assert np.abs(last - stays).max() < 0.04


def test_keys_are_the_ids_of_shards_on_this_machine(make_shards):
    pattern = make_shards()
    order = names(stream(pattern, SAMPLES))
    here = ShardSource(find_shards(pattern.removeprefix("file://")))
    assert set(sogclr.stable_keys(order).tolist()) == set(here.ids.view(np.int64).tolist())
    sample = next(stream(pattern, SAMPLES).epoch(0, 0))
    row = list(here.names).index(sample.name)
    assert np.array_equal(np.asarray(sample.image()), np.asarray(here.image(row)))


def test_an_image_of_several_is_the_first_in_order_and_what_is_no_sample_is_passed_over(tmp_path):
    parts = [
        ("README", b"?"), ("a.png", encoded(1)), (".b.png", encoded(2)), ("a.jpg", b"the one"),
        ("c.txt", b"words"), ("d.PNG", b"last"),
    ]  # fmt: skip
    pack(tmp_path / "one.tar", parts)
    pack(tmp_path / "two.tar", [("e.png", encoded(3))])
    source = stream(f"{tmp_path.as_uri()}/{{one,two}}.tar", 3)
    found = {sample.name: sample.content for sample in source.epoch(0, 0)}
    assert found == {"a": b"the one", "d": b"last", "e": encoded(3)}


def batches(source, start=0, workers=0, accumulate=2):
    plan = StreamSchedule(source, 30, 8, accumulate, 2, seed=3)
    plan.start_step = start
    return list(stream_batches(plan, image_size=8, crop_min=0.2, workers=workers))


def assert_same(some, others):
    for one, other in zip(some, others, strict=True):
        assert (one.micro_batch.step, one.micro_batch.epoch) == (
            other.micro_batch.step,
            other.micro_batch.epoch,
        )
        assert np.array_equal(one.micro_batch.keys, other.micro_batch.keys)
        assert torch.equal(one.crops, other.crops)
        assert np.array_equal(one.draws, other.draws)


def test_batches_are_even_and_know_rows_and_keys(make_shards):
    source = stream(make_shards(), 37)
    found = batches(source)
    assert [len(batch.micro_batch.rows) for batch in found] == [8, 8, 7, 7, 7] * 2
    assert [batch.micro_batch.step for batch in found] == [0, 0, 1, 1, 2, 3, 3, 4, 4, 5]
    assert [batch.micro_batch.last for batch in found] == [False, True, False, True, True] * 2
    assert [batch.micro_batch.weight for batch in found[:5]] == [1 / 2, 1 / 2, 1 / 2, 1 / 2, 1]
    order = names(source, seed=3) + names(source, epoch=1, seed=3)
    keys = sogclr.stable_keys(order)
    assert np.concatenate([batch.micro_batch.keys for batch in found]).tolist() == keys.tolist()
    rows = sogclr.hashed_rows(keys, 30)
    assert np.concatenate([batch.micro_batch.rows for batch in found]).tolist() == rows.tolist()
    assert [sample.name for batch in found for sample in batch.micro_batch.samples] == order


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize(("accumulate", "start"), [(1, 0), (2, 0), (2, 4)])
def test_processes_share_each_batch(make_shards, processes, accumulate, start):
    """Put together in their order, shares are the batch of one process; they differ by one."""
    pattern = make_shards()
    plans = [StreamSchedule(stream(pattern, 37), 30, 8, accumulate, 2, 3)]
    plans += [
        StreamSchedule(stream(pattern, 37), 30, 8, accumulate, 2, 3, rank, processes)
        for rank in range(processes)
    ]
    for plan in plans:
        plan.start_step = start
    for whole, *shares in zip(*plans, strict=True):
        for part in ("rows", "keys", "samples"):
            parts = [getattr(share, part) for share in shares]
            assert list(chain(*parts)) == list(getattr(whole, part))
        sizes = [len(share.rows) for share in shares]
        assert max(sizes) - min(sizes) <= 1
        for share in shares:
            assert (share.step, share.epoch, share.weight, share.last) == (
                whole.step, whole.epoch, whole.weight, whole.last,
            )  # fmt: skip


def test_loader_processes_change_nothing(make_shards):
    source = stream(make_shards(), 37)
    assert_same(batches(source), batches(source, workers=2))


@pytest.mark.parametrize("start", [1, 3, 5])
def test_resumed_within_an_epoch_is_the_rest_of_it(make_shards, start):
    pattern = make_shards()
    whole = [each for each in batches(stream(pattern, 37)) if each.micro_batch.step >= start]
    assert_same(whole, batches(stream(pattern, 37), start))


def test_views_are_those_of_the_sample_in_this_epoch(make_shards):
    pattern, seen = make_shards(), {}
    for number, source in enumerate([stream(pattern, 37), stream(pattern, 40, buffer=3)]):
        for batch in batches(source):
            for i, (key, crop) in enumerate(
                zip(batch.micro_batch.keys.tolist(), batch.crops, strict=False)
            ):
                sample = key, batch.micro_batch.epoch
                if number and sample in seen:
                    assert torch.equal(crop, seen[sample]), i
                seen.setdefault(sample, crop)
    assert len({key for key, _ in seen}) == SAMPLES


def test_a_sample_that_comes_again_in_an_epoch_has_other_views(make_shards):
    plan = StreamSchedule(stream(make_shards(), 2 * SAMPLES), 30, 2 * SAMPLES, 1, 1, seed=3)
    (batch,) = stream_batches(plan, image_size=8, crop_min=0.2, workers=0)
    draws = batch.draws[: 2 * SAMPLES]  # of first views
    order = np.lexsort(
        [[sample.pass_number for sample in batch.micro_batch.samples], batch.micro_batch.keys]
    )
    first, second = draws[order[::2]], draws[order[1::2]]
    ids = np.sort(batch.micro_batch.keys)[::2].view(np.uint64)
    assert np.array_equal(first, uniforms(3, 0, ids, 0, DRAWS))
    assert (first != second).all()
    assert len(np.unique(draws[:, 0])) == 2 * SAMPLES


def test_damage_is_named_in_its_place(make_shards, tmp_path):
    pattern = make_shards()
    shard = tmp_path / "shards" / "2.tar"
    # Of its eight samples the fourth image is cut off.
    shard.write_bytes(shard.read_bytes()[: 4 * 2048 - 300])
    pack(tmp_path / "shards" / "3.tar", [("x.png", b"none"), ("y.png", encoded(1))])
    source = stream(pattern, 24 + 3 + 1 + 2)
    found = batches(source)[:4]
    unreadable = {name: reason for batch in found for name, reason in batch.unreadable}
    assert set(unreadable) == {shard.as_uri(), "x"}
    assert (
        "damaged (truncated), the samples behind the damage are left out"
        in unreadable[shard.as_uri()]
    )
    assert unreadable["x"].startswith("not an image")
    kept = [sample.name for batch in found for sample in batch.micro_batch.samples]
    expected = [f"set/{n:03}" for n in range(SAMPLES) if n not in range(19, 32)]
    assert sorted(kept) == sorted([*expected, "y"])
    assert all(len(batch.crops) == 2 * len(batch.micro_batch.rows) for batch in found)


def test_without_images_it_is_refused(tmp_path):
    pack(tmp_path / "a.tar", [("a.txt", b"words")])
    with pytest.raises(
        UserError, match=r"no sample of file:.*a\.tar has a part jpg, .*can be read$"
    ):
        StreamSource((tmp_path / "a.tar").as_uri(), 5)
    (tmp_path / "b.tar").write_bytes(b"<html>" * 1000)
    with pytest.raises(UserError, match=r"can be read \(the first, file:.*b\.tar: damaged"):
        StreamSource((tmp_path / "b.tar").as_uri(), 5)


def test_shards_that_lost_all_images_do_not_turn_for_ever(make_shards, tmp_path):
    source = stream(make_shards(), 2 * SAMPLES)
    for shard in range(SHARDS):
        pack(tmp_path / "shards" / f"{shard}.tar", [("a.txt", b"words")])
    with pytest.raises(UserError, match="no sample of"):
        names(source)


def test_what_is_read_ahead_is_the_same():
    assert list(read_ahead(iter(range(100)), 3)) == list(range(100))

    def failing():
        yield 1
        raise UserError("gone")

    found = read_ahead(failing(), 3)
    assert next(found) == 1
    with pytest.raises(UserError, match="gone"):
        next(found)


def test_no_more_is_read_ahead_than_is_allowed_and_nothing_once_it_is_given_up():
    made = []

    def making():
        for number in count():
            made.append(number)
            yield number

    found = read_ahead(making(), 3)
    assert list(islice(found, 5)) == [0, 1, 2, 3, 4]
    found.close()
    # Those that were taken, those that wait, and the one in hand.
    assert len(made) <= 5 + 3 + 1


def _with_bad_members(path):
    good = [member(f"{n}.png", encoded(n)) for n in range(2)]
    link = header("link.png", 0, tarfile.SYMTYPE)
    twice = 2 * member("twice.png", encoded(3))
    path.write_bytes(good[0] + SPARSE["old, huge"] + link + twice + good[1] + END)
    return path


def test_samples_whose_image_cannot_be_read_are_named_in_their_place(tmp_path, monkeypatch):
    monkeypatch.setattr("sogclr.data.tar.stream.LARGEST_IMAGE", 1000)
    shard = _with_bad_members(tmp_path / "a.tar")
    with shard.open("r+b") as file:
        file.seek(-1024, 2)
        file.write(member("large.png", bytes(1001)) + END)
    source = stream(shard.as_uri(), 6, buffer=1)
    found = {sample.name: sample.damage for sample in source.epoch(0, 0)}
    assert found == {
        "0": None,
        "b": "its png is sparse",
        "link": "its png is a link",
        "twice": "its png is there twice",
        "1": None,
        "large": "its png is 1,001 bytes long, more than the 1,000 that are read",
    }
    with pytest.raises(UnreadableImageError) as error:
        StreamSample("b", b"", damage=found["b"]).image()
    assert error.value.args == ("b", "its png is sparse")


@pytest.mark.parametrize(
    ("name", "lost"),
    # The last sample before the damage may have lost parts, unless another one has begun.
    [("8 GiB", []), ("negative", [23]), ("huge long name", [23]), ("a sparse map of 10^18", [23])],
)
def test_a_hostile_header_ends_its_shard_alone(make_shards, tmp_path, name, lost):
    pattern = make_shards()
    shard = tmp_path / "shards" / "2.tar"
    content = shard.read_bytes().rstrip(b"\0")
    shard.write_bytes(content + bytes(-len(content) % 512) + DAMAGING[name] + END)
    found = list(stream(pattern, SAMPLES + 1 - len(lost), buffer=1).epoch(1, 0))
    damaged = [sample.name for sample in found if sample.damage is not None]
    assert damaged == [shard.as_uri()]
    whole = sorted(sample.name for sample in found if sample.damage is None)
    assert whole == [f"set/{n:03}" for n in range(SAMPLES) if n not in lost]


@pytest.mark.parametrize("pieces", ["texts", "one member", "folders"])
def test_a_server_that_never_has_an_image_is_refused(monkeypatch, pieces):
    monkeypatch.setattr("sogclr.data.tar.stream.FIRST_SAMPLE", 0.3)
    endless = {
        "texts": (b"", 100 * member("a.txt", b"words")),
        "one member": (header("a.txt", 1 << 70), bytes(1 << 16)),
        "folders": (b"", 100 * header("a/", 0, tarfile.DIRTYPE)),
    }

    def answer(send, stopped):
        first, more = endless[pieces]
        send(b"HTTP/1.0 200 OK\r\n\r\n" + first)
        while not stopped.is_set():
            send(more)

    told = r"0\.3 s of reading found no sample of http://127\S+/a\.tar with a part jpg, "
    with answering(answer) as (address, _), pytest.raises(UserError, match=told):
        StreamSource(f"{address}/a.tar?token", 5)


def test_the_time_without_a_sample_is_limited_in_training_too(make_shards, monkeypatch):
    """It does not count while the next sample is not asked for."""
    source = stream(make_shards(), SAMPLES, buffer=1)
    now = [0.0]
    monkeypatch.setattr("sogclr.data.tar.remote.BLOCK", 512)  # time is looked at before each one
    monkeypatch.setattr("sogclr.data.tar.remote.time.monotonic", lambda: now[0])
    for _ in source.epoch(0, 0):
        now[0] += 10_000
    read = source.epoch(0, 0)
    next(read)
    original = TarHeaders.read

    def read_slowly(self, size):
        now[0] += 601
        return original(self, size)

    monkeypatch.setattr(TarHeaders, "read", read_slowly)
    with pytest.raises(UserError, match="600 s of reading found no sample"):
        list(read)


@pytest.mark.parametrize("buffer", [1, 7])
def test_other_file_systems_give_the_same_epoch(make_shards, tmp_path, monkeypatch, buffer):
    monkeypatch.setattr("sogclr.data.tar.members.PAUSE", 0)
    pattern = make_shards()
    expected = list(stream(pattern, SAMPLES, buffer=buffer).epoch(1, 0))
    system = fsspec.filesystem("memory")
    for shard in (tmp_path / "shards").iterdir():
        system.pipe_file(f"/bucket/{shard.name}", shard.read_bytes())
    in_memory = stream(f"memory://bucket/{{0..{SHARDS - 1}}}.tar", SAMPLES, buffer=buffer)
    assert list(in_memory.epoch(1, 0)) == expected
    system.rm("/bucket", recursive=True)
    with flaky_files(tmp_path / "shards") as (url, errors):
        flaky = stream(f"{url}/{{0..{SHARDS - 1}}}.tar", SAMPLES, buffer=buffer)
        errors.extend([None, OSError("reset")] * 3)
        assert list(flaky.epoch(1, 0)) == expected
        assert not errors


def test_each_shard_has_its_own_place_in_the_order():
    system = fsspec.filesystem("memory")
    for shard in range(8):
        system.pipe_file(f"/{shard}.tar", member("a.png", encoded(1)) + END)
    source = StreamSource("memory://{0..99}.tar", 5)
    assert len(set(source.ids.tolist())) == 100
    for shard in range(8):
        system.rm(f"/{shard}.tar")


BEHIND = {
    "a block": bytes(512) + member("c.png", encoded(3)) + END,
    "another archive": END + member("c.png", encoded(3)) + END,
    "a megabyte": bytes(1 << 20) + member("c.png", encoded(3)) + END,
    "no header": END + b"x",
}


@pytest.mark.parametrize("name", BEHIND)
def test_what_zeros_hide_is_damage(tmp_path, name):
    """A zero block ends an archive; of joined archives, only the first would be read."""
    good = member("a.png", encoded(1)) + member("b.png", encoded(2))
    (tmp_path / "x.tar").write_bytes(good + BEHIND[name])
    samples = list(StreamSource((tmp_path / "x.tar").as_uri(), 2, buffer=1).epoch(0, 0))
    assert [sample.damage is None for sample in samples] == [True, False]
    assert samples[1].damage.startswith("damaged (data behind the mark of its end)")
    assert ShardSource([tmp_path / "x.tar"]).damaged
