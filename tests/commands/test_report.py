"""`sogclr.report`: the page of runs on images, pairs and texts, without data, while training."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.refusal import refused
from PIL import Image

import sogclr
from sogclr.commands import report
from sogclr.commands.report import report_at_the_end
from sogclr.commands.result import suggest_next
from sogclr.evaluation.knn import knn_accuracy
from sogclr.evaluation.pages import samples as sampling
from sogclr.runs.folder import Run
from sogclr.runs.stored_samples import read_samples

ALWAYS = ["What was run", "Curves", "Plan", "How to load the model", "What to type next"]
# Left out if nothing stands out.
FINDINGS = {"Near duplicates", "Outliers", "Suspected wrong labels", "Texts that do not fit"}
SMALL = {"batch_size": 8, "epochs": 1, "device": "cpu", "workers": 0}
NASTY = ("<img src=x onerror=alert(1)>", '"><script>alert(2)<', "two\nlines 📷", "{{ 7*7 }}")


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "digits"
    sogclr.pretrain("digits", out, batch_size=128, epochs=1, device="cpu", workers=0)
    return out


@pytest.fixture(scope="module")
def digits_page(digits_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("pages") / "digits.html"
    return sogclr.report(digits_run, out=out, samples=300, device="cpu")


def test_a_run_on_images_shows_all_but_the_audit(digits_page, digits_run):
    assert {*digits_page.left_out} - FINDINGS == {"Audit"}
    assert digits_page.shown[:2] == ["What was run", "Results"]
    assert {*ALWAYS, "Augmented views", "Nearest neighbours", "Map of the embedding"} <= {
        *digits_page.shown
    }
    text = digits_page.file.read_text()
    assert "300 of 1,797 images, drawn at random" in text
    assert "for 32 batches an epoch" not in text  # the batch size was given
    assert "as given" in text
    assert digits_page.file.stat().st_size < 20e6


def test_the_result_is_that_of_knn_on_the_same_images(digits_page, digits_run):
    source = sogclr.data.open_images.open_images("digits")
    rows = np.sort(sampling.draw_rows(source.ids, 300))
    vectors = sogclr.load(digits_run).encode_image([source.image(row) for row in rows.tolist()])
    accuracy = knn_accuracy(vectors, torch.from_numpy(source.labels[rows]))
    line = r'scope="row">trained encoder</th>\s*<td>([\d.]+)%'
    (shown,) = re.findall(line, digits_page.file.read_text())
    assert float(shown) == pytest.approx(100 * accuracy, abs=0.4)


def test_training_ends_with_its_results_and_what_comes_next(digits_run, capsys):
    report_at_the_end(digits_run, "digits", None, "cpu")
    said = capsys.readouterr().err
    shown = re.search(
        r"raw pixels (\S+)%, untrained encoder (\S+)%, trained encoder (\S+)% \(± (\S+)\)", said
    )
    assert shown is not None
    worse = float(shown[3]) + float(shown[4]) < max(float(shown[1]), float(shown[2]))
    assert ("training has not paid yet" in said) == worse
    suggest_next(Path("my run"), "a b/photos", ("sogclr evaluate {run} {data}",))
    suggest_next(Path("run"), np.zeros(3), ("sogclr evaluate {run} {data}",))
    _, named, _, unnamed = capsys.readouterr().err.splitlines()
    assert shlex.split(named) == ["sogclr", "evaluate", "my run", "a b/photos"]
    assert unnamed == "  sogclr evaluate run DATA"


def test_the_most_crowded_samples_are_those_of_the_table(digits_page, digits_run):
    (stored,) = read_samples(Run(digits_run)).values()
    order = np.argsort(-stored.log_u, kind="stable")
    names = [str(number) for number in stored.ids[order].tolist()]
    text = digits_page.file.read_text()
    crowded, lonely = text.split("The most crowded images")[1].split("The loneliest images")
    assert re.findall(r'class="name">(\d+)<', crowded)[:16] == names[:16]
    assert re.findall(r'class="name">(\d+)<', lonely)[:16] == names[:-17:-1]


@pytest.fixture(scope="module")
def nasty_run(tmp_path_factory):
    """A run on folders and files whose names try to become part of the page."""
    root = tmp_path_factory.mktemp("nasty")
    rng = np.random.default_rng(0)
    for number, name in enumerate(NASTY):
        (root / "photos" / name).mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 150, (12, 12, 3), dtype=np.uint8) + np.uint8(25 * number)
            Image.fromarray(pixels).save(root / "photos" / name / f"{i} {name}.png")
    sogclr.pretrain(root / "photos", root / "<b>run", **SMALL)
    return root / "<b>run"


def test_names_are_shown_as_text(nasty_run):
    text = sogclr.report(nasty_run, device="cpu").file.read_text()
    assert "<script" not in text
    assert "<img src=x" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    assert "{{ 7*7 }}" in text
    assert r"two\nlines 📷" in text
    assert "<b>run" not in text


def test_images_that_are_gone_leave_a_placeholder(nasty_run, tmp_path):
    photos = tmp_path / "photos"
    shutil.copytree(nasty_run.parent / "photos", photos)
    source = sogclr.data.open_images.open_images(photos)
    for path in photos.rglob("0 *.png"):
        path.unlink()
    page = sogclr.report(nasty_run, source, out=tmp_path / "page.html", device="cpu")
    text = page.file.read_text()
    assert 'class="placeholder"' in text  # lonely or crowded by the table, but gone
    assert "20 of 24 images" in text


def test_without_data_the_sections_that_need_none_remain(nasty_run, tmp_path, capsys):
    run = shutil.copytree(nasty_run, tmp_path / "run")
    settings = json.loads((run / "settings.json").read_text())
    for change, reason in (
        ({"data": str(tmp_path / "gone")}, "does not exist"),
        ({"data": "https://host/{0..9}.tar"}, "not on this machine"),
        ({"data": "hf:name"}, "not on this machine"),
        ({"data": None}, "does not say where its data is"),
    ):
        (run / "settings.json").write_text(json.dumps({**settings, **change}))
        page = sogclr.report(run, device="cpu")
        assert {*ALWAYS, "Augmented views"} == set(page.shown)
        assert reason in page.left_out["Results"]
        assert reason in capsys.readouterr().err


def test_a_run_that_has_saved_nothing_yet(nasty_run, tmp_path):
    run = shutil.copytree(nasty_run, tmp_path / "run")
    for name in ("checkpoint.pt", "encoder.safetensors", "digests.json", "metrics.jsonl"):
        (run / name).unlink()
    (run / "run.lock").touch()
    page = sogclr.report(run, device="cpu")
    assert page.shown == ["What was run", "Plan", "Augmented views", "How to load the model"]
    assert "has saved no encoder yet" in page.left_out["Results"]
    assert "training now: epoch 0.0 of 1" in page.file.read_text()


def test_a_run_on_pairs(trained, pairs, tmp_path):
    page = sogclr.report(trained, out=tmp_path, device="cpu")
    assert page.file == tmp_path / "report.html"
    assert {*page.left_out} - FINDINGS == {"Augmented views", "Audit"}
    text = page.file.read_text()
    report = sogclr.evaluate(trained, pairs).retrieval
    for direction in (report.a_to_b, report.b_to_a):
        cells = [f"{value:.1%}" for value in direction.recall.values()]
        cells += [f"{direction.median_rank:g}", str(direction.queries)]
        assert re.search(r"\s*".join(f"<td>{re.escape(cell)}</td>" for cell in cells), text)
    assert "The most crowded texts" in text


def test_a_run_with_frozen_towers_and_images_alone(joined, make_folder, tmp_path):
    page = sogclr.report(joined, make_folder(), out=tmp_path, device="cpu")
    assert {"Confusion of classes", "Nearest neighbours"} <= set(page.shown)
    assert "the run has no number of its own" in page.left_out["Crowded and lonely samples"]


def test_a_run_on_two_texts(on_texts, tmp_path):
    page = sogclr.report(on_texts, out=tmp_path, device="cpu")
    assert {"Results", "Hits and misses", "Map of the embedding"} <= set(page.shown)
    assert 'class=" words"' in page.file.read_text()


def test_a_slow_encoder_embeds_fewer_samples(nasty_run, tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "SECONDS", -1.0)
    monkeypatch.setattr(sampling, "AT_ONCE", 5)
    page = sogclr.report(nasty_run, out=tmp_path, device="cpu")
    assert "5 of 24 images, drawn at random" in page.file.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "page.png"], "--out: a page is written as .html, not as .png"),
        (["--out", "gone/page.html"], "--out: the folder gone does not exist"),
        (["--samples", "2"], "--samples: must be at least 3, got 2"),
        (["gone"], "data: gone does not exist"),
    ],
)
def test_what_cannot_work_is_refused(nasty_run, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, "report", nasty_run, *words)


def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    assert "is not a run of sogclr" in refused(capsys, "report", tmp_path)


@pytest.fixture
def reports_at_the_end(monkeypatch):
    monkeypatch.setattr(report, "report_at_the_end", report_at_the_end)


@pytest.mark.usefixtures("reports_at_the_end")
def test_training_ends_with_the_page(make_folder, tmp_path, capsys):
    run = tmp_path / "run"
    result = sogclr.pretrain(make_folder(), run, **SMALL)
    assert result.complete
    assert f"report: {run / 'report.html'}" in capsys.readouterr().err
    assert "complete: 1 epoch" in (run / "report.html").read_text()


@pytest.mark.usefixtures("reports_at_the_end")
@pytest.mark.parametrize("error", [ValueError("two\nlines"), MemoryError(), KeyboardInterrupt()])
def test_a_report_that_fails_is_one_line_and_loses_nothing(
    make_folder, tmp_path, capsys, monkeypatch, error
):
    def fail(*arguments, **settings):
        raise error

    monkeypatch.setattr("sogclr.commands.report.compose_sections", fail)
    result = sogclr.pretrain(make_folder(), tmp_path / "run", **SMALL)
    assert result.complete
    *_, why, following, _, _ = capsys.readouterr().err.strip().splitlines()
    assert "the run is complete: sogclr report" in why
    assert following == "next:"
    assert sogclr.load(tmp_path / "run")


@pytest.mark.usefixtures("reports_at_the_end")
def test_a_module_of_ones_own_stays_as_it_is(make_folder, tmp_path, capsys):
    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3 * 8 * 8, 16)

        def forward(self, x):
            return self.layer(x.flatten(1))

    own = Own()
    sogclr.pretrain(make_folder(), tmp_path / "run", encoder=own, image_size=8, **SMALL)
    assert (tmp_path / "run" / "report.html").is_file(), capsys.readouterr().err
    trained = sogclr.load(tmp_path / "run", Own()).encoder
    torch.testing.assert_close(own.layer.weight, trained.layer.weight)
