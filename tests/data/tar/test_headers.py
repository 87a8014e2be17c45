"""Headers of archives on disk: hostile ones end the shard, or cost one sample."""

import io
import tarfile

import pytest
from helpers.packing import encoded, pack
from helpers.tar_headers import DAMAGING, END, SPARSE, header, member, number, pax

from sogclr.data.tar import headers
from sogclr.data.tar.headers import TarHeaders, read_headers
from sogclr.data.tar.images import ShardSource
from sogclr.data.tar.index import index_shard
from sogclr.data.tar.pairs import shard_pairs

IMAGES = [(f"a{n}.png", encoded(n)) for n in range(3)]
GOOD = b"".join(member(name, content) for name, content in IMAGES)


@pytest.mark.parametrize("name", DAMAGING)
@pytest.mark.parametrize("end", [b"", END, member("z.png", encoded(9)) + END], ids=len)
def test_damage_ends_the_shard_and_keeps_what_precedes_it(tmp_path, name, end):
    (tmp_path / "x.tar").write_bytes(GOOD + DAMAGING[name] + end)
    source = ShardSource([tmp_path / "x.tar"])
    # The last sample before the damage may have lost parts.
    assert list(source.names) == ["a0", "a1"]
    assert source.image(1).size == (12, 10)
    assert source.left_out[0][1].startswith("damaged (")
    assert source.damaged


@pytest.mark.parametrize("mapped", [0, 1, 3])
def test_a_sparse_map_that_the_end_of_the_file_cuts_is_damage(tmp_path, mapped):
    extended = {482: b"\1", 483: number(512)}
    cut = header("b.png", 0, tarfile.GNUTYPE_SPARSE, at=extended)
    (tmp_path / "x.tar").write_bytes(GOOD + cut + mapped * (504 * b"\0" + b"\1" + bytes(7)))
    assert list(ShardSource([tmp_path / "x.tar"]).names) == ["a0", "a1"]


@pytest.mark.parametrize("name", SPARSE)
def test_sparse_members_are_named_and_passed_over(tmp_path, name):
    behind = member("c.png", encoded(9))
    (tmp_path / "x.tar").write_bytes(GOOD + SPARSE[name] + behind + END)
    source = ShardSource([tmp_path / "x.tar"])
    assert list(source.names) == ["a0", "a1", "a2", "c"]
    assert source.left_out == [("b", "no image, only png that is sparse")]
    assert source.damaged == []
    source.image(3)


def test_a_long_header_of_an_honest_program_is_read():
    comment = pax({"comment": 100_000 * "x", "path": "b.png"})
    archive = io.BytesIO(comment + member("cut.png", b"content") + END)
    (found,) = TarHeaders(archive)
    assert (found.name, found.size, found.problem) == ("b.png", 7, None)


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (tarfile.LNKTYPE, "a link"),
        (tarfile.SYMTYPE, "a link"),
        (tarfile.FIFOTYPE, "neither a file nor a link"),
        (tarfile.CHRTYPE, "neither a file nor a link"),
        (b"Z", "neither a file nor a link"),
        (tarfile.CONTTYPE, None),
    ],
)
def test_what_a_member_is_besides_a_file(kind, problem):
    (found,) = TarHeaders(io.BytesIO(header("a.png", 0, kind) + END))
    assert found.problem == problem


def test_folders_are_passed_over():
    archive = io.BytesIO(header("a/", 0, tarfile.DIRTYPE) + member("a/b.png", b"x") + END)
    assert [found.name for found in TarHeaders(archive)] == ["a/b.png"]


def test_terabytes_of_holes_are_passed_over(tmp_path):
    """A member of 1 TB and as many zeros behind the end take no disk, memory or time."""
    shard = pack(tmp_path / "x.tar", IMAGES)
    content = shard.read_bytes().rstrip(b"\0")
    content += bytes(-len(content) % 512)
    with shard.open("wb") as file:
        file.write(content + header("big.png", 1 << 40))
        place = file.tell() + (1 << 40)
        file.seek(place)
        file.write(header("big.txt", 1 << 30))
        file.seek(1 << 30, 1)
        file.write(member("text.png", encoded(1)) + header("text.txt", 1 << 30))
        file.seek(1 << 30, 1)
        file.write(END)
        file.truncate(1 << 42)
    source = ShardSource([shard])
    assert list(source.names) == ["a0", "a1", "a2", "text"]
    assert source.damaged == []
    ((name, reason),) = source.left_out
    assert name == "big"
    assert reason.startswith("no image, only png that is 1,099,511,627,776 bytes long, more than")
    index = index_shard(shard)
    assert len(index.captions) == 0
    pack(tmp_path / "y.tar", [("y.png", encoded(5)), ("y.txt", b"words")])
    pairs = shard_pairs([shard, tmp_path / "y.tar"])
    assert len(pairs.a.names) == 1


@pytest.mark.parametrize("gap", [512, 1 << 20, 1 << 33])
def test_data_behind_the_end_is_damage(tmp_path, gap):
    shard = pack(tmp_path / "x.tar", IMAGES)
    with shard.open("r+b") as file:
        file.seek(gap, 2)
        file.write(member("lost.png", encoded(1)))
        size = file.tell()
        file.seek(0)
        with pytest.raises(tarfile.ReadError, match="no header of a member at byte"):
            list(read_headers(file, size))


def test_without_knowledge_of_holes_zeros_are_read_up_to_a_bound(tmp_path, monkeypatch):
    monkeypatch.delattr("sogclr.data.tar.headers.os.SEEK_DATA")
    monkeypatch.setattr(headers, "_MOST_ZEROS", 1 << 22)
    shard = pack(tmp_path / "x.tar", IMAGES)
    assert index_shard(shard).damage is None
    with shard.open("r+b") as file:
        file.truncate(1 << 24)
    assert index_shard(shard).damage == "more than 4,194,304 zeros behind its end"
