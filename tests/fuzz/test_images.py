"""Damaged images: each is read, or named with a reason; what is cut is never read as if whole."""

import io

import numpy as np
import pytest
from helpers.fuzzing import Content, damage, draw_damages, require_one_line, run_cases
from hypothesis import strategies as st
from PIL import Image

from sogclr.data.decode import FORMATS, UnreadableImageError, decode_image
from sogclr.data.images.folder import FolderSource

MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("RGB", "L", "P", "1"),
    "TIFF": ("RGB", "RGBA", "L", "P", "1", "CMYK", "LAB", "I;16", "F"),
    "GIF": ("P", "L"),
}
OPTIONS = {
    "JPEG": [{}, {"progressive": True}, {"quality": 30}, {"restart_marker_rows": 1}],
    "PNG": [{}, {"interlace": 1}, {"compress_level": 0}],
    "WEBP": [{}, {"lossless": True}],
    "BMP": [{}],
    "TIFF": [{}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}],
    "GIF": [{}, {"interlace": 0}, {"save_all": True}],
}
EXIF = Image.Exif()
EXIF[0x0112] = 6


@st.composite
def draw_images(draw):
    """The format and the bytes of a sound image."""
    format = draw(st.sampled_from(FORMATS))
    mode = draw(st.sampled_from(MODES[format]))
    size = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    pixels = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 256, (*size, 3))
    image = Image.fromarray(pixels.astype(np.uint8))
    image = image.convert("L").convert(mode) if mode in ("I;16", "F", "LA") else _to(image, mode)
    options = dict(draw(st.sampled_from(OPTIONS[format])))
    if format in ("JPEG", "PNG", "WEBP", "TIFF") and draw(st.booleans()):
        options["exif"] = EXIF
    file = io.BytesIO()
    image.save(file, format, **options)
    return format, Content(file.getvalue())


def _to(image, mode):
    return image if mode == "LAB" and image.mode == "LAB" else image.convert(mode)


@pytest.fixture
def check(tmp_path):
    number = 0
    sound = np.arange(300, dtype=np.uint8).reshape(10, 10, 3)

    def check(image, damages):
        nonlocal number
        number += 1
        format, content = image
        folder = tmp_path / str(number)
        folder.mkdir()
        Image.fromarray(sound).save(folder / "sound.png")
        (folder / f"x.{format.lower()}").write_bytes(damage(content, damages))
        source = FolderSource(folder)
        assert np.array_equal(source.image(source.names.index("sound.png")), sound)
        if len(source) == 1:
            ((name, reason),) = source.left_out
            assert name == f"x.{format.lower()}"
            assert f"{name}: {reason}" in source.describe()
            require_one_line(source.describe())
            return "left out with a reason"
        try:
            found = source.image(1)
        except UnreadableImageError as error:
            require_one_line(error.args[1])
            return "left out with a reason when decoded"
        assert found.mode == "RGB"
        if all(each.kind == "cut" for each in damages):
            assert np.array_equal(found, decode_image(io.BytesIO(content)))
        return "read"

    return check


@pytest.mark.parametrize("cases", [40, pytest.param(2000, marks=pytest.mark.fuzz)])
def test_damaged_images(check, counts, cases):
    counts["images"] = run_cases(check, cases, image=draw_images(), damages=draw_damages())
    assert len(counts["images"]) == 3
