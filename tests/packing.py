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
