"""`sogclr.curate`: planted faults are found, the selection trains, links lead to the images."""

import csv
import os
import shutil

import numpy as np
import pytest
import torch
from helpers.refusal import refused
from helpers.small_tables import read_rows, write_pairs, write_table
from PIL import Image, ImageOps

import sogclr
from sogclr.runs.folder import Run

SMALL = {"batch_size": 16, "epochs": 1, "device": "cpu", "workers": 0}


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def draw(seed):
    """A picture like no other; its colours tell its class, which is even or odd."""
    coarse = np.random.default_rng(seed).integers(0, 160, (6, 6, 3), dtype=np.uint8)
    coarse[..., seed % 2] += 95
    return Image.fromarray(coarse).resize((24, 24), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A folder with copies and wrong labels, and a run on it."""
    root = tmp_path_factory.mktemp("planted")
    for seed in range(80):
        label = "red" if seed % 2 == 0 else "green"
        if seed in (10, 31):
            label = {"red": "green", "green": "red"}[label]
        (root / "photos" / label).mkdir(parents=True, exist_ok=True)
        draw(seed).save(root / "photos" / label / f"{seed:02}.png")
    draw(4).resize((18, 18)).save(root / "photos" / "red" / "copy.png")
    ImageOps.mirror(draw(7)).save(root / "photos" / "green" / "mirrored.png")
    sogclr.pretrain(root / "photos", root / "run", **SMALL)
    return root


def test_planted_faults_are_found_and_nothing_else_changes(planted, tmp_path, capsys):
    before = sorted((str(p), p.stat().st_mtime_ns) for p in (planted / "photos").rglob("*"))
    found = sogclr.curate(planted / "run", planted / "photos", out=tmp_path / "list.csv")
    assert before == sorted((str(p), p.stat().st_mtime_ns) for p in (planted / "photos").rglob("*"))
    rows = rows_of(found.file)
    assert len(rows) == len(found.findings)
    groups = {}
    for row in rows:
        if row["finding"] == "duplicate":
            groups.setdefault(row["group"], set()).add(row["path"])
            assert row["similar_to"] in groups[row["group"]] | {r["path"] for r in rows}
    copies = [{"red/04.png", "red/copy.png"}, {"green/07.png", "green/mirrored.png"}]
    assert sorted(map(sorted, groups.values())) == sorted(map(sorted, copies))
    labels = {r["path"]: r["suggested"] for r in rows if r["finding"] == "label"}
    assert labels == {"green/10.png": "red", "red/31.png": "green"}
    assert list(found.left_out) == ["caption"]
    assert "nothing was deleted" in capsys.readouterr().err


def test_the_selection_and_the_links(planted, tmp_path):
    links = tmp_path / "links"
    found = sogclr.curate(
        planted / "run", planted / "photos", out=tmp_path / "list.csv", keep=0.5, links=links
    )
    kept = [row["path"] for row in rows_of(found.kept_file)]
    assert len(kept) == len(found.kept) == 41
    linked = [p.relative_to(links / "kept").as_posix() for p in (links / "kept").rglob("*.png")]
    assert sorted(linked) == sorted(kept)
    for link in links.rglob("*.png"):
        assert link.is_symlink()
        assert (planted / "photos") in link.resolve().parents
    assert len(list((links / "duplicates").rglob("*.png"))) == 4
    assert len(list((links / "labels").glob("*.png"))) == 2
    result = sogclr.pretrain(links / "kept", tmp_path / "run", **SMALL)
    assert result.complete


def test_a_model_that_cannot_judge_lists_no_labels_and_says_so(planted, tmp_path, capsys):
    for seed in range(80):
        folder = tmp_path / "photos" / "ab"[seed // 2 % 2]  # has nothing to do with the picture
        folder.mkdir(parents=True, exist_ok=True)
        draw(seed).save(folder / f"{seed:02}.png")
    found = sogclr.curate(planted / "run", tmp_path / "photos", out=tmp_path / "list.csv")
    assert "the model cannot judge: a sample fits its own label" in found.left_out["label"]
    assert not [finding for finding in found.findings if finding.kind == "label"]
    assert "not listed: the model cannot judge" in capsys.readouterr().out
    page = sogclr.report(planted / "run", tmp_path / "photos", out=tmp_path / "page.html")
    assert page.left_out["Suspected wrong labels"] == found.left_out["label"]


def test_hostile_names_and_labels_stay_text(planted, tmp_path, capsys):
    names = ["[red]x\"'.png", "<script>alert(1)<.png", "two\nlines 📷.png", "=1+1.png"]
    for seed in range(40):
        folder = tmp_path / "photos" / ("[bold]<b>" if seed % 2 == 0 else "'\"\n🙈")
        folder.mkdir(parents=True, exist_ok=True)
        draw(seed).save(folder / f"{seed:02}.png")
        if seed < len(names):
            draw(seed).save(folder / names[seed])
    found = sogclr.curate(planted / "run", tmp_path / "photos", out=tmp_path / "list.csv")
    rows = [row for row in rows_of(found.file) if row["finding"] == "duplicate"]
    assert {row["path"].split("/")[1] for row in rows} >= set(names)
    assert any(row["path"].startswith("[bold]<b>/") for row in rows)
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("│ duplicate")]
    assert "[bold]<b>" in line or "'\"\\n🙈" in line  # neither obeyed nor broken into lines


def test_a_run_whose_table_cannot_be_read_is_curated_without_it(planted, tmp_path, capsys):
    run = Run(shutil.copytree(planted / "run", tmp_path / "run"))
    state = run.read_checkpoint()
    state["loss"]["normalizer.state"] = torch.zeros(1, 4)
    run.write_checkpoint(state)
    found = sogclr.curate(run.folder, planted / "photos", out=tmp_path / "list.csv")
    assert {finding.kind for finding in found.findings} >= {"duplicate", "label"}
    assert "left out: log u" in capsys.readouterr().err
    said = refused(capsys, "audit", run.folder, planted / "photos")
    assert "with the version of sogclr that wrote it" in said


def test_captions_of_other_images_are_no_list_of_mistakes(trained, tmp_path):
    table = write_pairs(tmp_path / "pairs", 24)
    images, captions = zip(*read_rows(table), strict=True)
    mixed = write_table(
        table.with_name("mixed.csv"), list(zip(images, captions[::-1], strict=True))
    )
    found = sogclr.curate(trained, mixed, out=tmp_path / "list.csv", device="cpu")
    assert "a sample fits its own partner" in found.left_out["caption"]


def test_the_report_shows_the_same(planted, tmp_path):
    page = sogclr.report(planted / "run", out=tmp_path / "page.html", device="cpu")
    assert {"Near duplicates", "Suspected wrong labels"} <= set(page.shown)
    text = page.file.read_text()
    assert "4 samples in 2 groups are nearly the same" in text
    suspects = text.split('id="suspected-wrong-labels"')[1].split("</section>")[0]
    assert "green/10.png" in suspects
    assert "label green; rather red" in suspects


def test_parquet_has_the_same_findings(planted, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    found = sogclr.curate(planted / "run", planted / "photos", out=tmp_path / "list.parquet")
    table = parquet.read_table(found.file)
    assert table["score"].to_pylist() == [finding.score for finding in found.findings]


def test_pairs_swapped_captions_and_a_selection_that_trains(trained, tmp_path, fast):
    table = write_pairs(tmp_path / "pairs", 24)
    rows = read_rows(table)
    found = sogclr.curate(trained, table, out=tmp_path / "list.csv", keep=0.5, device="cpu")
    assert found.left_out.keys() == {"label"}
    kept = rows_of(found.kept_file)
    assert list(kept[0]) == ["image", "caption"]
    known = {(str(table.parent / image), caption) for image, caption in rows}
    assert {(row["image"], row["caption"]) for row in kept} <= known
    assert len({row["image"] for row in kept}) == 12
    assert sogclr.align(found.kept_file, tmp_path / "run", **fast).complete


def test_two_texts_and_images_of_a_pair_run(on_texts, sentences, joined, make_folder, tmp_path):
    found = sogclr.curate(on_texts, sentences, out=tmp_path / "texts.csv", device="cpu")
    assert {row["path"] for row in rows_of(found.file) if row["finding"] == "duplicate"} <= {""}
    found = sogclr.curate(joined, make_folder(), out=tmp_path / "images.csv", device="cpu")
    assert "crowded" in found.left_out


def test_files_that_are_gone_are_left_out(planted, tmp_path):
    photos = shutil.copytree(planted / "photos", tmp_path / "photos")
    source = sogclr.data.open_images.open_images(photos)
    (photos / "red" / "copy.png").unlink()
    found = sogclr.curate(planted / "run", source, out=tmp_path / "list.csv")
    assert "red/copy.png" not in (tmp_path / "list.csv").read_text()
    assert len([f for f in found.findings if f.kind == "duplicate"]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "list.txt"], "--out: list.txt must end in .csv or .parquet"),
        (["--out", "gone/list.csv"], "--out: the folder gone does not exist"),
        (["--out", "a.csv", "--keep", "1.5"], "--keep: must be between 0 and 1, got 1.5"),
        (["--out", "a.csv", "--columns", "a,b"], "--columns: has no effect"),
        (["--out", "a.csv", "--links", "full"], "--links: full exists and is not empty"),
        (["--out", "a.csv", "--links", "gone/links"], "--links: there is no folder"),
        (["--out", "a.csv", "--links", "photos/links"], "within the data"),
    ],
)
def test_what_cannot_work_is_refused(planted, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    os.symlink(planted / "photos", "photos")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert message in refused(capsys, "curate", planted / "run", "photos", *words)


def test_samples_without_files_have_no_links(planted, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["digits", "--out", "a.csv", "--links", "links"]
    assert "have no files of their own" in refused(capsys, "curate", planted / "run", *words)
