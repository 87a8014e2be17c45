"""Files become images in one place, by named formats, and damage is an error of two types."""

import ast
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sogclr
from sogclr import UserError
from sogclr.data.decode import DECODING_ERRORS, FORMATS, decode_image, read_header, reason_of
from sogclr.data.images.hub import HubImages
from sogclr.data.open_images import open_images

ROOT = Path(sogclr.__file__).parent
ALLOWED = ROOT / "data" / "decode.py"

# Functions of libraries that open image files; `decode_image` of this package is another.
OPENERS = {"imread", "read_image", "decode_png", "decode_jpeg", "pil_loader", "default_loader"}


def opens_images(tree):
    """Find names in a module that open images other than by `data/decode.py`."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            of_pillow = isinstance(node.value, ast.Name) and node.value.id in ("Image", "PIL")
            if node.attr in OPENERS or (node.attr == "open" and of_pillow):
                found.append(ast.unparse(node))
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [alias.name for alias in node.names]
            if node.module == "PIL.Image" or (node.module == "PIL" and "ImageFile" in names):
                found.append(ast.unparse(node))
            if node.module.startswith("torchvision") and {"decode_image", *OPENERS} & {*names}:
                found.append(ast.unparse(node))
        if isinstance(node, ast.Import):
            modules = [alias.name.partition(".")[0] for alias in node.names]
            if {"cv2", "imageio", "PIL", "skimage", "tifffile"} & {*modules}:
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize(
    "code",
    [
        "from PIL import Image\nImage.open('x')",
        "from PIL.Image import open",
        "import PIL.Image",
        "from torchvision.io import decode_image",
        "import matplotlib.pyplot as plt\nplt.imread('x')",
        "import cv2",
    ],
)
def test_the_law_finds_what_breaks_it(code):
    assert opens_images(ast.parse(code))


def test_no_other_module_opens_images():
    found = {path: opens_images(ast.parse(path.read_text())) for path in ROOT.rglob("*.py")}
    assert found[ALLOWED] == ["Image.open"]
    assert not {str(path): names for path, names in found.items() if names and path != ALLOWED}


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n%%EOF\n"
FOREIGN = {
    "eps": EPS,
    "psd": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 4, 4, 8, 3) + bytes(12),
    "ppm": b"P6\n4 4\n255\n" + bytes(48),
    "xbm": b"#define x_width 8\n#define x_height 1\nstatic char x_bits[] = {\n0x00 };\n",
    "tga": bytes([0, 0, 2]) + bytes(9) + struct.pack("<HHBB", 4, 4, 24, 0) + bytes(48),
    "qoi": b"qoif" + struct.pack(">IIBB", 4, 4, 3, 0) + bytes(20),
}


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A folder of programs, of which Ghostscript writes a file that the fixture returns."""
    (tmp_path / "bin").mkdir()
    ran = tmp_path / "ran"
    for name in ("gs", "gswin32c", "gswin64c"):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\ntouch {ran}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return ran


@pytest.mark.parametrize("format", FOREIGN)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_formats_that_are_not_named_are_not_tried(tmp_path, programs, format, suffix):
    Image.init()  # another library may have registered all of Pillow's formats
    path = tmp_path / f"image{suffix}"
    path.write_bytes(FOREIGN[format])
    for opening in (decode_image, read_header):
        with pytest.raises(OSError, match="cannot identify") as raised:
            opening(path)
        assert reason_of(raised.value) == (
            f"not an image, or of a format other than {', '.join(FORMATS)}"
        )
    assert not programs.exists()


def test_ghostscript_is_reached_by_no_kind_of_data(make_folder, trained, pairs, programs, tmp_path):
    """A folder, a query, an encoder's argument, and a table."""
    root = make_folder()
    (root / "red" / "evil.jpg").write_bytes(EPS)
    assert "evil.jpg: not an image" in open_images(root).describe()
    query = tmp_path / "evil.png"
    query.write_bytes(EPS)
    with pytest.raises(UserError, match="not an image"):
        sogclr.search(trained, str(query), data=pairs)
    with pytest.raises(UserError, match="not an image"):
        sogclr.load(trained).encode_image([query])
    with pytest.raises(UserError, match="not an image"):
        open_images_of_table(tmp_path)
    assert not programs.exists()


def open_images_of_table(folder):
    from sogclr.data.open_pairs import open_pairs

    (folder / "t.csv").write_text("image,caption\nevil.png,a\nevil.png,b\n")
    return open_pairs(folder / "t.csv")


def png(*chunks):
    """Make the bytes of a PNG file from `(type, content)`."""
    file = b"\x89PNG\r\n\x1a\n"
    for name, content in chunks:
        check = zlib.crc32(name + content)
        file += struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)
    return file


def header(width, height):
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)


BOMBS = {
    "pixels": (
        png(header(60_000, 60_000), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")),
        "too many pixels",
    ),
    "wide": (png(header(2**31 - 1, 1), (b"IDAT", b""), (b"IEND", b"")), "too many pixels"),
    "text": (
        png(
            header(4, 4),
            *[(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26)))],
            (b"IDAT", zlib.compress(bytes(52))),
            (b"IEND", b""),
        ),
        "too large",
    ),
    "no pixels": (png(header(0, 4), (b"IDAT", b""), (b"IEND", b"")), ""),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused(tmp_path, name):
    content, reason = BOMBS[name]
    (tmp_path / "bomb.png").write_bytes(content)
    with pytest.raises(DECODING_ERRORS) as raised:
        decode_image(tmp_path / "bomb.png")
    assert reason in reason_of(raised.value)


@pytest.mark.parametrize("format", FORMATS)
def test_damage_is_an_error_of_two_types(format):
    """Cut files, and files with changed bytes, are read or refused, whatever Pillow raises."""
    rng = np.random.default_rng(0)
    file = io.BytesIO()
    pixels = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
    exif = {} if format in ("BMP", "GIF") else {"exif": Image.Exif()}
    Image.fromarray(pixels).save(file, format, **exif)
    reasons = []
    for _ in range(150):
        content = bytearray(file.getvalue()[: rng.integers(0, len(file.getvalue()) + 1)])
        for place in rng.integers(0, max(1, len(content)), rng.integers(0, 20)):
            if place < len(content):
                content[place if rng.random() < 0.5 else place % 64 % len(content)] = rng.integers(
                    256
                )
        try:
            assert decode_image(io.BytesIO(bytes(content))).mode == "RGB"
        except DECODING_ERRORS as error:
            reasons.append(reason_of(error))
    assert len(reasons) > 50
    assert not any("\n" in reason for reason in reasons)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/proc/self", "no/such.jpg", "a\0b"])
def test_what_is_no_file_is_refused_at_once(path):
    with pytest.raises(DECODING_ERRORS):
        decode_image(path)


@pytest.mark.parametrize(
    "content", [None, {"bytes": EPS, "path": None}, {"bytes": b"", "path": None}]
)
def test_images_of_a_data_set_go_the_same_way(content, programs):
    datasets = pytest.importorskip("datasets")
    good = io.BytesIO()
    Image.fromarray(np.full((4, 4), 4095, np.uint16)).save(good, "PNG")
    records = [{"bytes": good.getvalue(), "path": None}, content]
    features = datasets.Features({"image": datasets.Image()})
    images = HubImages(datasets.Dataset.from_dict({"image": records}, features), "image", "x")
    assert len(images) == 1
    assert images.reasons[1]
    assert np.asarray(images.image(0)).min() == 255
    assert not programs.exists()


def test_of_several_frames_the_first_is_read():
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue", "lime")]
    for format in ("GIF", "TIFF", "PNG", "WEBP"):
        file = io.BytesIO()
        options = {"lossless": True} if format == "WEBP" else {}
        frames[0].save(file, format, save_all=True, append_images=frames[1:], **options)
        assert decode_image(file).getpixel((1, 1)) == (255, 0, 0)
