"""The picture of views shows what training feeds to the encoder."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from sogclr import Augmentation, UserError
from sogclr.data.batches.loaders import view_batches
from sogclr.data.batches.schedule import ShuffledSchedule
from sogclr.data.open_images import open_images
from sogclr.data.own_pictures import is_own
from sogclr.data.views.pipeline import encoder_inputs
from sogclr.planning.images import plan_run
from sogclr.planning.settings_images import ImageSettings
from sogclr.training.picture_sheet import RED, Sheet, fit_tile
from sogclr.training.views_picture import load_first_views, write_views_picture

SETTINGS = ImageSettings(
    seed=3, batch_size=2, image_size=24, views=Augmentation(blur=0.5, flip=1.0)
)


def test_the_views_are_those_of_the_first_batch(make_folder):
    source = open_images(make_folder(per_class=30))
    plan = plan_run(replace(SETTINGS, batch_size=32), source, "cpu", None)
    first = load_first_views(source, plan)
    # As training does, with its own batch size and more epochs.
    schedule = ShuffledSchedule(source.ids, plan.batch_size, accumulate=1, epochs=7, seed=3)
    crop_min = plan.views.crop_min
    batch = next(iter(view_batches(source, schedule, image_size=24, crop_min=crop_min, workers=0)))
    inputs = encoder_inputs(batch.crops, batch.draws, plan.views, (0, 0, 0), (1, 1, 1))
    expected = inputs.unflatten(0, (2, -1))[:, :16]
    assert first.views.shape == (2, 16, 3, 24, 24)
    assert (first.views.float() / 255 - expected).abs().max() <= 0.5 / 255 + 1e-6
    rows = batch.micro_batch.rows[:16].tolist()
    assert first.names == [source.names[row] for row in rows]
    for row, image in zip(rows, first.originals, strict=True):
        assert np.array_equal(np.asarray(image), np.asarray(source.image(row)))


def test_the_picture_has_every_tile(make_folder, tmp_path):
    source = open_images(make_folder(per_class=3))
    plan = plan_run(SETTINGS, source, "cpu", None)
    first = write_views_picture(source, plan, tmp_path / "x.png")
    picture = Image.open(tmp_path / "x.png")
    assert is_own(picture)
    pixels = np.asarray(picture.convert("RGB"))
    shown = {pixels[y : y + 96, x : x + 96].tobytes() for y, x in _corners(pixels)}
    for view in first.views.flatten(0, 1):
        tile = view.permute(1, 2, 0).numpy().repeat(4, axis=0).repeat(4, axis=1)
        assert tile.tobytes() in shown


def _corners(pixels):
    """Find where tiles begin: behind white, above and at the left."""
    dark = (pixels != 255).any(axis=2)
    inside = dark[1:, 1:] & ~dark[:-1, 1:] & ~dark[1:, :-1]
    return np.argwhere(inside) + 1


def test_unreadable_images_are_named_and_left_out(make_folder, tmp_path):
    folder = make_folder(per_class=2)
    source = open_images(folder)
    plan = plan_run(SETTINGS, source, "cpu", None)
    (folder / source.names[0]).unlink()
    first = write_views_picture(source, plan, tmp_path / "x.png")
    assert sorted(first.names) == sorted(source.names[1:])
    assert [name for name, reason in first.unreadable] == [source.names[0]]
    for name in source.names[1:]:
        (folder / name).unlink()
    assert write_views_picture(source, plan, tmp_path / "y.png").names == []
    assert not (tmp_path / "y.png").exists()


def test_a_full_disk_is_named_with_the_advice(make_folder, tmp_path):
    source = open_images(make_folder(per_class=2))
    plan = plan_run(SETTINGS, source, "cpu", None)
    with pytest.raises(UserError, match=r"could not write .*; look elsewhere"):
        write_views_picture(source, plan, tmp_path / "none" / "x.png", "look elsewhere")


@pytest.mark.parametrize("size", [(1, 1), (3, 7), (40, 50), (96, 96), (5000, 2)])
def test_a_tile_is_a_square_with_the_whole_image(size):
    image = Image.new("RGB", size, "blue")
    tile = np.asarray(fit_tile(image, 96))
    assert tile.shape == (96, 96, 3)
    blue = (tile == (0, 0, 255)).all(axis=2)
    height, width = blue.any(axis=1).sum(), blue.any(axis=0).sum()
    assert max(height, width) >= 48
    if max(size) < 1000:
        assert width / height == pytest.approx(size[0] / size[1], rel=0.05)


def test_texts_wrap_within_their_width_and_nothing_is_lost():
    sheet = Sheet("x")
    text = "word " * 60 + "w" * 300
    place = (700, sheet.bottom)
    height = sheet.write_parts(place, 300, [(text, RED)])
    sheet.bottom += height
    pixels = np.asarray(sheet.finish())[place[1] :]
    inked = np.argwhere((pixels != 255).any(axis=2))
    assert inked[:, 1].min() >= 699
    assert inked[:, 1].max() <= 1_002
    assert inked[:, 0].max() <= height
    # As many lines of ink as a loop over words needs.
    assert height / 27 == pytest.approx(-(-60 // 4) + len(_lines_of("w" * 300, 300)), abs=3)


def _lines_of(word, width):
    from sogclr.training.picture_sheet import load_font

    lines, start = [], 0
    for end in range(1, len(word) + 1):
        if load_font(20).getlength(word[start:end]) > width:
            lines.append(word[start : end - 1])
            start = end - 1
    return [*lines, word[start:]]


def test_a_long_name_keeps_its_end():
    sheet = Sheet("x")
    short, long = Sheet("x"), Sheet("x")
    short.write_line((0, 50), 200, "…/b.png")
    long.write_line((0, 50), short_width(), "a" * 500 + "/b.png")
    assert sheet.image.size == long.image.size
    assert torch.equal(*(torch.from_numpy(np.array(s.image)) for s in (short, long)))


def short_width():
    from sogclr.training.picture_sheet import load_font

    return int(load_font(20).getlength("…/b.png")) + 1
