"""Damaged tar shards, on disk and streamed: a sample is read, or its loss is named."""

import io
import tarfile

import pytest
from helpers.fuzzing import KINDS, Content, Damage, damage, require_one_line, run_cases
from helpers.packing import encoded
from hypothesis import strategies as st

from sogclr import UserError
from sogclr.data.tar.images import ShardSource
from sogclr.data.tar.pairs import shard_pairs
from sogclr.data.tar.stream import StreamSource
from sogclr.data.tar.stream_pairs import PairStream

MOST = 5  # samples
# Larger than what four damages can remove, so that no sample vanishes without a trace.
IMAGES = [encoded(seed, size=(24, 30)) for seed in range(MOST)]
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


@st.composite
def draw_shards(draw):
    """The keys of the samples, and the bytes of a sound shard with an image and a caption each."""
    keys = [f"{i}{'ü' * draw(st.integers(0, 1))}" for i in range(draw(st.integers(1, MOST)))]
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=draw(st.sampled_from(FORMATS))) as archive:
        for i, key in enumerate(keys):
            caption = draw(
                st.sampled_from([("txt", f"say {i}"), ("json", f'{{"caption": "{i}"}}')])
            )
            for part, content in (("png", IMAGES[i]), caption):
                member = tarfile.TarInfo(f"{key}.{part}")
                content = content.encode() if isinstance(content, str) else content
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return keys, Content(file.getvalue())


def draw_tar_damages():
    """Damages of which many lie on the borders of blocks, in front of the padding at the end."""
    places = st.one_of(st.integers(0, 1 << 20), st.integers(0, 40).map(lambda block: 512 * block))
    counts = st.sampled_from([1, 7, 512, 512, 512])
    content = st.one_of(st.binary(min_size=1, max_size=4), st.just(Content(512)))
    one = st.builds(Damage, st.sampled_from(KINDS), places, counts, content)
    return st.lists(one, min_size=1, max_size=4)


def read_local(opening, shard):
    """The keys that are read, and what is named as lost; None if all is refused."""
    try:
        source = opening([shard])
    except UserError as error:
        require_one_line(str(error))
        return None
    images = getattr(source, "a", source)
    require_one_line(source.describe())
    return set(images.names), [*source.damaged, *map(str, source.left_out)]


def read_stream(kind, shard, most):
    """As `read_local`."""
    try:
        source = kind(shard.as_uri(), most)
        samples = [sample for sample in source.epoch(0, 0) if sample.pass_number == 0]
    except UserError as error:
        require_one_line(str(error))
        return None
    named = [f"{sample.name}: {sample.damage}" for sample in samples if sample.damage]
    return {sample.name for sample in samples if not sample.damage}, named


@pytest.fixture
def check(tmp_path):
    number = 0

    def check(shard, damages):
        nonlocal number
        number += 1
        keys, content = shard
        path = tmp_path / f"{number}.tar"
        path.write_bytes(damage(content, damages))
        lost, refused = False, 0
        for opening, streaming in ((ShardSource, StreamSource), (shard_pairs, PairStream)):
            expected = set(keys)
            for found in (read_local(opening, path), read_stream(streaming, path, 3 * MOST)):
                if found is None:
                    refused += 1
                    continue
                read, named = found
                lost |= bool(named)
                for key in expected - read:
                    assert any("damaged (" in text or key in text for text in named), (key, named)
                # A stream passes over samples that lack a part.
                expected &= read
        path.unlink()
        return (
            "refused"
            if refused == 4
            else "read, with the loss named"
            if lost or refused
            else "read whole"
        )

    return check


@pytest.mark.parametrize("cases", [40, pytest.param(500, marks=pytest.mark.fuzz)])
def test_damaged_shards(check, counts, cases):
    ends = run_cases(check, cases, shard=draw_shards(), damages=draw_tar_damages())
    counts["tar shards"] = ends
    assert len(ends) == 3
