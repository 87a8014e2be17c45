import os

import numpy as np
import pytest
from PIL import Image

from sogclr import UserError
from sogclr.data.decode import UnreadableImageError
from sogclr.data.images import files as files_module
from sogclr.data.open_images import open_images, require_undamaged
from sogclr.data.randomness import stable_id


def test_labels_are_the_first_level_of_sub_folders(make_folder):
    source = open_images(make_folder(per_class=3, classes=("a", "b", "c")))
    assert source.classes == ["a", "b", "c"]
    assert source.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert source.names[3] == "b/000.png"


def test_deeper_levels_do_not_make_labels(make_folder):
    root = make_folder(per_class=2)
    (root / "red" / "deep").mkdir()
    os.rename(root / "red" / "000.png", root / "red" / "deep" / "000.png")
    source = open_images(root)
    assert source.classes == ["blue", "red"]
    assert "red/deep/000.png" in source.names


def test_a_flat_folder_has_no_labels(make_folder):
    source = open_images(make_folder() / "red")
    assert source.labels is None
    assert len(source) == 8


def test_a_loose_file_beside_sub_folders_means_no_labels(make_folder):
    root = make_folder()
    Image.new("RGB", (9, 9)).save(root / "loose.jpg")
    assert open_images(root).labels is None


def test_ids_survive_moving_and_growing(make_folder, tmp_path):
    root = make_folder()
    before = dict(zip(open_images(root).names, open_images(root).ids, strict=True))
    moved = tmp_path / "elsewhere"
    os.rename(root, moved)
    Image.new("RGB", (9, 9)).save(moved / "blue" / "0000.png")
    after = open_images(moved)
    grown = dict(zip(after.names, after.ids, strict=True))
    assert len(grown) == len(before) + 1
    assert all(grown[name] == before[name] for name in before)
    assert grown["blue/000.png"] == stable_id("blue/000.png")


MODES = {
    "jpg": ["RGB", "L", "CMYK"],
    "JPEG": ["RGB"],
    "png": ["RGB", "L", "LA", "P", "RGBA", "1", "I;16"],
    "webp": ["RGB", "RGBA", "L", "P"],
}


@pytest.mark.parametrize(("suffix", "mode"), [(s, m) for s, modes in MODES.items() for m in modes])
def test_every_format_and_mode_becomes_rgb(tmp_path, suffix, mode):
    for i in range(2):
        Image.new(mode, (5, 4)).save(tmp_path / f"{i}.{suffix}")
    image = open_images(tmp_path).image(0)
    assert image.mode == "RGB"
    assert image.size == (5, 4)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    for i in range(2):
        Image.fromarray(np.full((4, 4), 32768, dtype=np.uint16)).save(tmp_path / f"{i}.png")
    assert np.asarray(open_images(tmp_path).image(0)).max() == 128


def test_unreadable_headers_are_listed_and_left_out(make_folder):
    root = make_folder()
    (root / "red" / "broken.jpg").write_bytes(b"not an image")
    (root / "red" / "empty.png").write_bytes(b"")
    source = open_images(root)
    assert len(source) == 16
    assert sorted(name for name, _ in source.left_out) == ["red/broken.jpg", "red/empty.png"]
    assert "2 unreadable files left out" in source.describe()
    require_undamaged(source.damaged, "skip")
    with pytest.raises(
        UserError, match=r"red/broken\.jpg: not an image; .*replace the damaged files"
    ):
        require_undamaged(source.damaged, "refuse")


def test_a_truncated_file_is_found_when_decoded(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("a.jpg", "b.jpg"):
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "b.jpg").write_bytes((tmp_path / "b.jpg").read_bytes()[:1000])
    source = open_images(tmp_path)
    assert not source.left_out
    source.image(0)
    with pytest.raises(UnreadableImageError, match=r"b\.jpg"):
        source.image(1)


def test_a_file_that_vanishes_is_unreadable(make_folder):
    root = make_folder()
    source = open_images(root)
    (root / source.names[0]).unlink()
    with pytest.raises(UnreadableImageError, match="no such file"):
        source.image(0)


def test_headers_are_read_again_only_where_files_changed(make_folder, monkeypatch):
    root = make_folder()
    open_images(root)
    Image.new("RGB", (30, 40)).save(root / "red" / "000.png")
    read = []
    original = files_module._read_header
    monkeypatch.setattr(
        files_module,
        "_read_header",
        lambda path, *rest: read.append(path) or original(path, *rest),
    )
    source = open_images(root)
    assert [path.name for path in read] == ["000.png"]
    assert source.image(source.names.index("red/000.png")).size == (30, 40)


def test_failures_are_tried_again(make_folder, monkeypatch):
    root = make_folder()
    original = files_module._read_header

    def broken(path, *rest):
        return files_module._Header(*rest, 0, 0, "input/output error")

    monkeypatch.setattr(files_module, "_read_header", broken)
    with pytest.raises(UserError, match="input/output error"):
        open_images(root)
    monkeypatch.setattr(files_module, "_read_header", original)
    assert len(open_images(root)) == 16


def test_file_names_need_not_be_unicode(make_folder):
    root = make_folder()
    os.rename(root / "red" / "000.png", os.fsencode(root / "red") + b"/\xff.png")
    source = open_images(root)
    assert len(set(source.ids.tolist())) == 16
    assert source.image(15).size == (12, 10)


def test_a_damaged_cache_is_no_obstacle(make_folder):
    root = make_folder()
    open_images(root)
    cache = files_module._cache_file(root)
    cache.write_text("{")
    assert len(open_images(root)) == 16


def test_links_that_lead_back_up_end(make_folder):
    root = make_folder()
    (root / "red" / "again").symlink_to(root, target_is_directory=True)
    assert len(open_images(root)) == 16


def test_training_size_follows_the_shorter_side(make_folder):
    assert open_images(make_folder("tiny", size=(12, 10))).image_size == 10
    assert open_images(make_folder("middle", size=(110, 101), per_class=2)).image_size == 96
    assert open_images(make_folder("large", size=(400, 300), per_class=2)).image_size == 224


def test_missing_empty_and_unreadable_folders_say_so(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        open_images(tmp_path / "none")
    with pytest.raises(UserError, match=r"no \.jpg"):
        open_images(tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match=r"none of the 1 files .* a\.jpg: not an image"):
        open_images(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        open_images(tmp_path / "a.jpg")
