"""One way to RGB: upright, on white, greys scaled."""

import io

import numpy as np
import pytest
from PIL import Image

import sogclr
from sogclr.data.decode import decode_image
from sogclr.data.open_images import open_images
from sogclr.data.rgb import to_rgb
from sogclr.models.encoders import build_encoder
from sogclr.models.image_encoder import ImageEncoder


def decoded(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    file.seek(0)
    return np.asarray(decode_image(file))


def ramp(top, dtype):
    return np.linspace(0, top, 64).astype(dtype)[None].repeat(3, axis=0)


EXPECTED = np.linspace(0, 255, 64)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_greys_of_all_depths_are_scaled(bits, format):
    shown = decoded(Image.fromarray(ramp(2**bits - 1, np.uint16)), format)
    assert np.abs(shown[0, :, 0] - EXPECTED).max() <= 1
    assert (shown == shown[..., :1]).all()


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_the_order_of_bytes_does_not_matter(order):
    image = Image.fromarray(ramp(65535, np.uint16).astype(order))
    assert np.abs(np.asarray(to_rgb(image))[0, :, 1] - EXPECTED).max() <= 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (ramp(1, np.float32), EXPECTED),
        (ramp(255, np.float32), EXPECTED),
        (ramp(4095, np.float32), EXPECTED),
        (ramp(65535, np.int32), EXPECTED),
        (2 * ramp(1, np.float32) - 1, EXPECTED),
        (ramp(3000, np.int32) - 1000, EXPECTED),
        (np.float32([[0, 0.5, 1, np.nan, np.inf, -np.inf]]), [0, 128, 255, 0, 255, 0]),
        (np.float32([[0.25, 0.25]]), [64, 64]),
    ],
    ids=["one", "bytes", "12 bits", "int", "signed", "tomography", "no numbers", "constant"],
)
def test_numbers_are_scaled(values, expected):
    shown = decoded(Image.fromarray(values), "TIFF")[0, :, 2]
    assert np.abs(shown - np.asarray(expected)).max() <= 1


def test_the_largest_value_is_never_dark():
    for high in (1.001, 3, 17, 300, 5000.5, 1e6, 3e38):
        image = Image.fromarray(np.float32([[0, high]]))
        assert 63 <= np.asarray(to_rgb(image)).max() <= 255


def test_an_image_without_a_number_is_damaged():
    with pytest.raises(ValueError, match="no pixel is a number"):
        decoded(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF")


def palette(**options):
    image = Image.new("P", (4, 4), 3)
    image.putpalette([255, 0, 0] * 256)
    return image, options


HIDDEN = {
    "PNG RGBA": ("PNG", Image.new("RGBA", (4, 4), (255, 0, 0, 0)), {}),
    "PNG LA": ("PNG", Image.new("LA", (4, 4), (7, 0)), {}),
    "PNG palette": ("PNG", *palette(transparency=3)),
    "PNG palette, several": ("PNG", *palette(transparency=bytes([255, 255, 255, 0]))),
    "PNG RGB key": ("PNG", Image.new("RGB", (4, 4), (9, 8, 7)), {"transparency": (9, 8, 7)}),
    "PNG grey key": ("PNG", Image.new("L", (4, 4), 9), {"transparency": 9}),
    "PNG one bit key": ("PNG", Image.new("1", (4, 4), 0), {"transparency": 0}),
    "PNG 16 bit key": (
        "PNG",
        Image.fromarray(np.full((4, 4), 999, np.uint16)),
        {"transparency": 999},
    ),
    "GIF": ("GIF", *palette(transparency=3)),
    "WebP": (
        "WEBP",
        Image.new("RGBA", (4, 4), (255, 0, 0, 0)),
        {"lossless": True, "exact": True},
    ),
    "TIFF": ("TIFF", Image.new("RGBA", (4, 4), (255, 0, 0, 0)), {}),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_colours_do_not_show(name):
    format, image, options = HIDDEN[name]
    assert (decoded(image, format, **options) == 255).all()


@pytest.mark.parametrize("alpha", [255, 128, 64])
def test_half_transparent_pixels_are_mixed_with_white(alpha):
    image = Image.new("RGBA", (3, 3), (200, 100, 0, alpha))
    expected = (np.array([200, 100, 0]) * alpha + 255 * (255 - alpha)) / 255
    assert np.abs(decoded(image, "PNG") - expected).max() <= 1
    for mode in ("RGBa", "PA") if alpha == 255 else ("RGBa",):
        shown = np.asarray(to_rgb(image.convert("P").convert(mode) if mode == "PA" else image))
        assert np.abs(shown - expected).max() <= (30 if mode == "PA" else 1)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "PA", "La", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_every_mode_is_converted(mode):
    assert to_rgb(Image.new(mode, (3, 2))).mode == "RGB"


UPRIGHT = np.zeros((6, 9, 3), np.uint8)
UPRIGHT[:3], UPRIGHT[:, :2, 0] = 255, 90
INVERSE = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # how a camera stored the pixels
LOSSLESS = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}


@pytest.mark.parametrize("format", LOSSLESS)
@pytest.mark.parametrize("tag", INVERSE)
def test_pictures_stand_upright_once(format, tag):
    stored, exif = Image.fromarray(UPRIGHT), Image.Exif()
    if INVERSE[tag] is not None:
        stored = stored.transpose(Image.Transpose(INVERSE[tag]))
    exif[0x0112] = tag
    file = io.BytesIO()
    stored.save(file, format, exif=exif, **LOSSLESS[format])
    shown = decode_image(io.BytesIO(file.getvalue()))
    assert np.array_equal(np.asarray(shown), UPRIGHT)
    assert np.array_equal(np.asarray(to_rgb(shown)), UPRIGHT)
    with Image.open(io.BytesIO(file.getvalue())) as opened:
        assert np.array_equal(np.asarray(to_rgb(opened)), UPRIGHT)
        assert np.array_equal(np.asarray(to_rgb(opened)), UPRIGHT)  # the image itself is unchanged


@pytest.mark.parametrize("tag", [0, 9, 77])
def test_an_unknown_orientation_is_upright(tag):
    exif = Image.Exif()
    exif[0x0112] = tag
    assert np.array_equal(decoded(Image.fromarray(UPRIGHT), "PNG", exif=exif), UPRIGHT)


@pytest.mark.parametrize("content", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"x" * 99])
def test_damaged_tags_do_not_lose_the_pixels(content):
    assert np.array_equal(decoded(Image.fromarray(UPRIGHT), "PNG", exif=content), UPRIGHT)


def write_all(folder):
    """Write images that Pillow's own conversion shows wrongly."""
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = Image.fromarray(np.roll(ramp(4095, np.uint16), 9, axis=1).repeat(11, axis=0))
    grey.save(folder / "grey.png")
    Image.fromarray(UPRIGHT).save(folder / "turned.jpg", exif=exif)
    clear = np.random.default_rng(0).integers(0, 256, (20, 20, 4), dtype=np.uint8)
    Image.fromarray(clear).save(folder / "clear.png")
    Image.fromarray(ramp(1, np.float32).repeat(9, axis=0)).save(folder / "float.tif")


def test_a_file_is_the_same_from_a_folder_a_path_and_an_opened_image(tmp_path):
    write_all(tmp_path)
    source = open_images(tmp_path)
    model = ImageEncoder(*build_encoder("small", 16))
    for row, name in enumerate(source.names):
        pixels = model.preprocess(source.image(row))
        with Image.open(tmp_path / name) as opened:
            assert pixels.equal(model.preprocess(opened)), name
        assert pixels.equal(model.preprocess(tmp_path / name)), name
        assert len(pixels.unique()) > 8


def test_a_query_finds_itself(trained, tmp_path):
    write_all(tmp_path)
    for name in ("grey.png", "turned.jpg", "clear.png", "float.tif"):
        found = sogclr.search(trained, str(tmp_path / name), data=tmp_path, out=tmp_path / "x.png")
        assert found[0].similarity == pytest.approx(1, abs=1e-5)
        assert name in [match.name for match in found if match.similarity > 0.99999]
