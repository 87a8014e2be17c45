import errno
import os
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sogclr
from sogclr import UserError
from sogclr.auditing import measure
from sogclr.data.decode import UnreadableImageError
from sogclr.data.image_source import NO_LABEL
from sogclr.data.images import files as files_module
from sogclr.data.images.folder import FolderSource
from sogclr.data.open_images import open_images, require_undamaged
from sogclr.data.own_pictures import write_picture
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


@pytest.mark.parametrize("loose", [["cover.jpg"], ["a.bmp", "z.gif"], ["1.png", "2.tif", "3.JPG"]])
def test_loose_files_beside_sub_folders_have_no_label(make_folder, loose):
    root = make_folder()
    for name in loose:
        Image.new("RGB", (9, 9)).save(root / name)
    source = open_images(root)
    assert source.classes == ["blue", "red"]
    labels = dict(zip(source.names, source.labels.tolist(), strict=True))
    assert {name for name, label in labels.items() if label == NO_LABEL} == set(loose)
    assert all(source.classes[n] == name[: name.index("/")] for name, n in labels.items() if n >= 0)
    told = f"; no label: {len(loose)} beside them ({'; '.join(sorted(loose))})"
    assert told in source.describe()


def test_images_without_a_label_are_not_classified(make_folder, capsys):
    root = make_folder()
    kept = sogclr.pretrain(root, root.parent / "run", encoder="small", epochs=1, batch_size=8)
    assert kept is not None
    before = sogclr.evaluate(root.parent / "run", root, protocol="knn,linear")
    for i in range(9):  # as many as the classes have, so that kNN would be far off
        Image.new("RGB", (12, 10), (9 * i, 0, 0)).save(root / f"{i}.png")
    assert sogclr.evaluate(root.parent / "run", root, protocol="knn,linear") == before
    assert "no label: 9 beside them" in capsys.readouterr().err


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
    "bmp": ["RGB", "L", "P", "1"],
    "tif": ["RGB", "L", "CMYK", "I;16", "F", "RGBA", "LAB"],
    "TIFF": ["RGB"],
    "gif": ["RGB", "L", "P"],
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
        UserError, match=r"red/broken\.jpg: not an image, .*replace the damaged files"
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
        lambda path, status: read.append(path) or original(path, status),
    )
    source = open_images(root)
    assert [path.name for path in read] == ["000.png"]
    assert source.image(source.names.index("red/000.png")).size == (30, 40)


def test_failures_are_tried_again(make_folder, monkeypatch):
    root = make_folder()
    original = files_module._read_header

    def broken(path, status):
        return files_module.FileHeader(0, 0, 0, 0, False, "input/output error")

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


@pytest.mark.parametrize("content", ["{", "[]", "7", '{"red/000.png": [1, 2]}', '{"a": null}'])
def test_a_damaged_cache_is_no_obstacle(make_folder, content):
    root = make_folder()
    open_images(root)
    cache = files_module._cache_file(root)
    cache.write_text(content)
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
    for nothing in ("", "  "):
        with pytest.raises(UserError, match="data: is empty"):
            open_images(nothing)
    with pytest.raises(UserError, match="does not exist"):
        FolderSource(Path("a" * 5000))
    with pytest.raises(UserError, match="does not exist"):
        open_images(tmp_path / "none")
    with pytest.raises(UserError, match=r"no \.jpg"):
        open_images(tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match=r"none of the 1 files .* a\.jpg: not an image"):
        open_images(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        open_images(tmp_path / "a.jpg")


FORMATS_PASSED_OVER = [("psd", b"8BPS"), ("heic", b"ftypheic"), ("svg", b"<svg/>"), ("txt", b"cat")]


@pytest.mark.parametrize(("suffix", "content"), FORMATS_PASSED_OVER)
def test_files_that_are_not_read_are_named_by_their_suffix(make_folder, suffix, content):
    root = make_folder()
    for i in range(3):
        (root / "red" / f"{i}.{suffix}").write_bytes(content)
    source = open_images(root)
    assert len(source) == 16
    assert source.describe().endswith(f"; passed over: 3 .{suffix}")
    assert not source.damaged


def test_hidden_images_are_counted(make_folder):
    root = make_folder()
    (root / "__MACOSX").mkdir()
    (root / ".trash").mkdir()
    for name in ("__MACOSX/a.jpg", ".trash/b.jpg", "red/._000.png"):
        (root / name).write_bytes(b"")
    assert open_images(root).describe().endswith("; passed over: 3 hidden images")


def test_a_run_inside_the_data_is_not_data(make_folder):
    root = make_folder()
    before = open_images(root)
    settings = {"encoder": "small", "epochs": 1, "batch_size": 8}
    sogclr.pretrain(root, root / "runs" / "a", **settings)
    sogclr.pretrain(root, root / "red" / "b", **settings)
    after = open_images(root)
    assert after.names == before.names
    assert after.classes == before.classes
    assert "red/b (the folder of a run), runs/a (the folder of a run)" in after.describe()
    with pytest.raises(UserError, match="a is the folder of a run; give the folder of the images"):
        open_images(root / "runs" / "a")


def test_a_run_is_not_written_into_the_folder_of_its_images(make_folder):
    root = make_folder()
    (root.parent / "link").symlink_to(root, target_is_directory=True)
    for out in (root, root / "red" / "..", root.parent / "link"):
        with pytest.raises(UserError, match="is the folder of the data; give another folder"):
            sogclr.pretrain(root, out, encoder="small", epochs=1)
    assert not (root / "settings.json").exists()


@pytest.mark.parametrize("content", ['{"asked": 1}', "[]", "{", '{"classes": ["blue", "red"]}'])
def test_other_settings_beside_images_make_no_run(make_folder, content):
    root = make_folder()
    (root / "settings.json").write_text(content)
    assert len(open_images(root)) == 16


@pytest.mark.parametrize("write", ["views", "plain", "audit"])
def test_pictures_of_this_package_are_not_data_wherever_they_lie(
    make_folder, write, tmp_path, monkeypatch
):
    root, target = make_folder(), tmp_path / "photos" / "red" / "picture.png"
    if write == "views":
        sogclr.pretrain(root, tmp_path / "run", encoder="small", epochs=1, batch_size=8)
        (tmp_path / "run" / "views.png").rename(target)
    elif write == "audit":
        monkeypatch.setattr(measure, "VISITS", 100)  # how exact it is does not matter here
        sogclr.audit("small", root, samples=8, views=2, batch_size=4, out=target)
        target.with_suffix(".json").unlink()
    else:
        write_picture(Image.new("RGB", (9, 9)), target)
    source = open_images(root)
    assert len(source) == 16
    assert source.describe().endswith("; passed over: red/picture.png (written by sogclr)")
    assert len(open_images(root)) == 16  # and again from the cache


def test_a_folder_that_cannot_be_listed_is_damage(make_folder, monkeypatch):
    root = make_folder()
    listed = os.scandir

    def scandir(path):
        if str(path).endswith("red"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    source = open_images(root)
    assert len(source) == 8
    assert source.left_out == [("red/", "permission denied")]
    with pytest.raises(UserError, match="red/: permission denied"):
        require_undamaged(source.damaged, "refuse")


@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
def test_what_never_ends_is_left_out_at_once(make_folder, kind):
    root = make_folder()
    path = root / "red" / "endless.jpg"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        bound = socket.socket(socket.AF_UNIX)
        bound.bind(str(path))
        bound.close()
    source = open_images(root)
    assert len(source) == 16
    assert source.left_out[0][0] == "red/endless.jpg"
    assert "not a file" in source.left_out[0][1]
