"""Tar shards for tests."""

import io
import tarfile

import numpy as np
from PIL import Image


def encoded(seed, format="PNG", size=(12, 10)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def pack(path, members):
    """A tar of `(name, content)`; content None: a link to nowhere."""
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, "nowhere"
            member.size = len(content or b"")
            archive.addfile(member, io.BytesIO(content or b""))
    return path


def pack_images(folder, samples, shards, size=(12, 10)):
    """So many images in so many shards of a new folder; their pattern, by URL."""
    folder.mkdir()
    for shard, numbers in enumerate(np.array_split(np.arange(samples), shards)):
        pack(folder / f"{shard}.tar", [(f"{n:03}.png", encoded(n, size=size)) for n in numbers])
    return f"{folder.as_uri()}/{{0..{shards - 1}}}.tar"
