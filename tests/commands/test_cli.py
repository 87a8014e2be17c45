import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.interrupting import interrupt_after
from helpers.refusal import refused
from PIL import Image

from sogclr.commands.cli import COMMANDS, main
from sogclr.runs.folder import Run

FAST = ["--encoder", "small", "--image-size", "8", "--batch-size", "8", "--device", "cpu"]


@pytest.fixture
def photos(make_folder):
    return make_folder()


def test_from_photos_to_embeddings(photos, tmp_path, capsys):
    run = str(tmp_path / "run")
    main(["pretrain", str(photos), "--out", run, "--epochs", "2", *FAST])
    derived = capsys.readouterr().err
    assert "16 images in 2 sub-folders, taken as labels (blue, red)" in derived
    assert "learning rate" in derived

    main(["evaluate", run, str(photos), "--protocol", "knn,linear"])
    table = capsys.readouterr().out
    for word in ("raw pixels", "untrained", "trained", "knn", "linear"):
        assert word in table

    for name in ("x.npz", "x.parquet"):
        main(["embed", run, str(photos), "--out", str(tmp_path / name)])
    stored = np.load(tmp_path / "x.npz")
    assert stored["vectors"].shape == (16, 128)
    assert stored["paths"][0] == "blue/000.png"
    assert stored["ids"].dtype == np.uint64

    import pyarrow.parquet as pq

    table = pq.read_table(tmp_path / "x.parquet").to_pydict()
    assert table["path"] == stored["paths"].tolist()
    assert np.allclose(np.array(table["vector"]), stored["vectors"])


def test_evaluation_on_a_test_set(make_folder, photos, tmp_path, capsys):
    main(["pretrain", str(photos), "--out", str(tmp_path / "run"), "--epochs", "1", *FAST])
    held = make_folder("held", seed=1)
    main(["evaluate", str(tmp_path / "run"), str(photos), "--test", str(held)])
    assert "16 images in 2 classes." in capsys.readouterr().out
    other = make_folder("other", classes=("blue", "green"))
    line = refused(capsys, "evaluate", tmp_path / "run", photos, "--test", other)
    assert "green, red on one side only" in line


def test_bad_data_is_one_line(tmp_path, photos, capsys):
    run = tmp_path / "run"
    assert "does not exist" in refused(capsys, "pretrain", tmp_path / "none", "--out", run)
    (tmp_path / "empty").mkdir()
    assert "no .jpg" in refused(capsys, "pretrain", tmp_path / "empty", "--out", run)
    (tmp_path / "empty" / "a.jpg").write_bytes(b"x")
    assert "can be read" in refused(capsys, "pretrain", tmp_path / "empty", "--out", run)
    Image.new("RGB", (8, 8)).save(tmp_path / "empty" / "a.jpg")
    assert "one image" in refused(capsys, "pretrain", tmp_path / "empty", "--out", run)
    assert not run.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch-size", "1"], "leaves no negatives"),
        (["--batch-size", "17"], "more than the 16 images"),
        (["--temperature", "0"], "temperature: must be above 0"),
        (["--encoder", "resnet19"], "nearest: resnet"),
        (["--encoder", "small", "--pretrained"], "no pretrained weights"),
        (["--device", "cuda"], "cuda is not available"),
        (["--views.flip", "2"], "--views.flip: must be between 0 and 1"),
        (["--queue-size", "8"], "queue-size: goes with --method moco"),
        (["--momentum", "0.9", "--method", "dcl"], "momentum: goes with --method moco"),
        (["--method", "moco", "--queue-size", "33"], "at most 32, two views of each of the 16"),
        (["--method", "moco", "--momentum", "1"], "at least 0 and below 1, got 1"),
    ],
)
def test_bad_settings_are_one_line(photos, tmp_path, capsys, flags, message, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    run = tmp_path / "run"
    assert message in refused(capsys, "pretrain", photos, "--out", run, *flags)
    assert not run.exists()


def test_what_is_not_a_run_is_one_line(photos, tmp_path, capsys):
    assert "is not a run" in refused(capsys, "evaluate", photos, photos)
    assert "is not a run" in refused(capsys, "embed", photos, photos, "--out", tmp_path / "x.npz")
    assert "does not exist" in refused(capsys, "evaluate", tmp_path / "none", photos)
    line = refused(capsys, "pretrain", photos, "--out", tmp_path / "none", "--resume")
    assert "does not exist" in line


def test_a_run_in_the_way_and_one_from_other_data_are_one_line(
    make_folder, photos, tmp_path, capsys
):
    run = tmp_path / "run"
    main(["pretrain", str(photos), "--out", str(run), "--epochs", "1", *FAST])
    assert "holds a run already" in refused(capsys, "pretrain", photos, "--out", run)
    other = make_folder("other", classes=("x", "y"))
    line = refused(capsys, "pretrain", other, "--out", run, "--resume")
    assert "is not what" in line
    assert "0 are here unchanged" in line


def test_bad_targets_of_embed_are_found_before_embedding(photos, tmp_path, capsys):
    assert ".npz or .parquet" in refused(capsys, "embed", "r", photos, "--out", tmp_path / "x.csv")
    line = refused(capsys, "embed", "r", photos, "--out", tmp_path / "none" / "x.npz")
    assert "does not exist" in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretrain", "PHOTOS", "--out", "R", "--seed", 2**63], "--seed: "),
        (["pretrain", "PHOTOS", "--out", "R", "--epochs", 10**30], "--epochs: "),
        (["pretrain", "PHOTOS", "--out", "R", "--gamma-decay-visits", 10**23], "--gamma-decay-"),
        (["align", "PHOTOS", "--out", "R", "--memory-size", -(10**20)], "--memory-size: "),
        (["pretrain", "PHOTOS", "--out", "R", "--process-timeout", "nan"], "--process-timeout: "),
        (["pretrain", "PHOTOS", "--out", ""], '--out: "" is no value'),
        (["embed", "R", "", "--out", "x.npz"], 'data: "" is no value'),
        (["evaluate", "R", "PHOTOS", "--test", ""], '--test: "" is no value'),
        (["evaluate", "R", "PHOTOS", "--workers=-1"], "--workers: must not be negative"),
        (["embed", "R", "PHOTOS", "--out", "x.npz", "--workers", 10**9], "--workers: "),
        (["embed", "R", "nowhere", "--out", "x.npz"], "data: nowhere does not exist"),
        (["audit", "R", "PHOTOS", "--samples", "-5"], "--samples: must be at least 2"),
    ],
)
def test_words_that_cannot_work_are_refused_before_anything_is_read(
    photos, tmp_path, capsys, words, message
):
    places = {"PHOTOS": photos, "R": tmp_path / "run"}
    assert message in refused(capsys, *(places.get(word, word) for word in words))
    assert not (tmp_path / "run").exists()


def test_unknown_protocols_and_missing_labels_are_one_line(photos, tmp_path, capsys):
    run = tmp_path / "run"
    main(["pretrain", str(photos), "--out", str(run), "--epochs", "1", *FAST])
    assert "'svm' is unknown" in refused(capsys, "evaluate", run, photos, "--protocol", "knn,svm")
    assert "no labels" in refused(capsys, "evaluate", run, photos / "red", "--protocol", "knn")
    main(["evaluate", str(run), str(photos / "red")])
    assert "no labels: knn and linear are left out" in capsys.readouterr().err


def test_settings_are_stored_with_what_was_derived(photos, tmp_path):
    main(["pretrain", str(photos), "--out", str(tmp_path / "run"), "--epochs", "1", *FAST])
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert settings["asked"]["batch_size"] == settings["resolved"]["batch_size"] == 8
    assert settings["asked"]["temperature"] is None
    assert settings["resolved"]["temperature"] == 0.2
    assert None not in {settings["resolved"][name] for name in ("encoder", "learning_rate")}


def test_candidates_are_those_of_sogclr(photos, tmp_path, capsys):
    asked = ["pretrain", photos, "--out", tmp_path / "run", "--effective-negatives"]
    assert "goes with --method sogclr" in refused(capsys, *asked, "5", "--method", "simclr")
    assert "--effective-negatives: must be above 0 and finite" in refused(capsys, *asked, "0")
    main([*map(str, asked), "255", "--epochs", "1", *FAST])
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert settings["resolved"]["effective_negatives"] == 255


def test_recent_rows_are_those_of_sogclr(photos, tmp_path, capsys):
    asked = ["pretrain", photos, "--out", tmp_path / "run", "--memory-size"]
    assert "memory-size: goes with --method sogclr" in refused(
        capsys, *asked, "5", "--method", "moco"
    )
    assert "memory-size: must not be negative, got -1" in refused(capsys, *asked, "-1")


def test_moco_tells_and_stores_its_queue_and_momentum(photos, tmp_path, capsys):
    run = str(tmp_path / "run")
    main(["pretrain", str(photos), "--out", run, "--epochs", "1", "--method", "moco", *FAST])
    told = capsys.readouterr().err
    assert "moco for 1 epoch on" in told
    assert "queue size      16           as many as there are images" in told
    assert "momentum        0.99         0.999 from 100,000 steps on" in told
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert (settings["asked"]["queue_size"], settings["asked"]["momentum"]) == (None, None)
    assert (settings["resolved"]["queue_size"], settings["resolved"]["momentum"]) == (16, 0.99)
    more = ["--resume", "--method", "moco", "--queue-size", "8"]
    line = refused(capsys, "pretrain", photos, "--out", run, *more)
    assert "queue-size: " in line
    assert "was started with 16, not 8" in line


@pytest.mark.parametrize(
    "verb",
    [[], ["pretrain"], ["align"], ["evaluate"], ["embed"], ["search"], ["audit"], ["report"]],
)
def test_help_imports_nothing_heavy(verb):
    """What makes --help slow are imports; that none happens is what keeps it below a second."""
    code = (
        "import sys\n"
        "from sogclr.commands.cli import main\n"
        "try:\n"
        f"    main({[*verb, '--help']!r})\n"
        "finally:\n"
        "    heavy = {'torch', 'numpy', 'PIL', 'timm', 'sklearn', 'open_clip', 'transformers',\n"
        "             'datasets', 'pyarrow'} & set(sys.modules)\n"
        "    print('HEAVY', sorted(heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert "usage: sogclr" in done.stdout
    assert done.stdout.strip().endswith("HEAVY []")


@pytest.mark.parametrize(
    "verb",
    ["pretrain", "align", "preview", "evaluate", "report", "embed", "search", "serve", "curate",
     "audit"],
)  # fmt: skip
def test_nothing_imports_a_training_framework_before_it_trains(verb):
    """Lightning and timm take seconds, more than a plan, a preview or a search."""
    code = (
        f"import sys, sogclr.commands.{verb}\n"
        "print('HEAVY', sorted({'lightning_fabric', 'torchvision', 'timm'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "HEAVY []", done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_shell_can_complete_every_command(capsys, shell):
    with pytest.raises(SystemExit) as exit:
        main(["--tyro-print-completion", shell])
    assert not exit.value.code
    script = capsys.readouterr().out
    assert all(name in script for name in COMMANDS)
    assert "--batch-size" in script
    assert "--callbacks" not in script


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_exits_with_try_again(photos, tmp_path, monkeypatch, capsys, number):
    command = ["pretrain", str(photos), "--out", str(tmp_path / "run"), "--epochs", "3", *FAST]
    interrupt_after(monkeypatch, 1, number=number)
    with pytest.raises(SystemExit) as exit:
        main(command)
    assert exit.value.code == 75
    assert "stopped at step 2; go on with --resume" in capsys.readouterr().err
    main(["pretrain", str(photos), "--out", str(tmp_path / "run"), "--resume"])  # exits with 0


def test_a_run_stopped_at_once_exits_with_130(photos, tmp_path, monkeypatch):
    command = ["pretrain", str(photos), "--out", str(tmp_path / "run"), "--epochs", "3", *FAST]
    interrupt_after(monkeypatch, 1, times=2)
    with pytest.raises(SystemExit) as exit:
        main(command)
    assert exit.value.code == 130
    assert not (tmp_path / "run" / "run.lock").exists()


def test_a_run_in_use_is_refused(photos, tmp_path, capsys):
    run = Run(tmp_path / "run")
    with run.claim():
        line = refused(capsys, "pretrain", photos, "--out", run.folder, *FAST)
        assert "another process trains in" in line
        run.write_settings({})
        line = refused(capsys, "pretrain", photos, "--out", run.folder, "--resume")
        assert "another process trains in" in line
    assert "another process" not in refused(
        capsys, "pretrain", photos, "--out", run.folder, "--resume"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("monitor"), "'monitor' is missing"),
        (lambda state: state["model"].popitem(), "does not fit this run"),
        (lambda state: state.update(loss={"normalizer.u": torch.zeros(16)}), "does not fit"),
        (lambda state: state.update(step="3"), "does not fit"),
        (lambda state: state.update(step=10**6), "it is of step 1000000 of 4"),
        (lambda state: state.update(optimizer={}), "does not fit"),
        (lambda state: state["monitor"].update(pending=[1]), "does not fit"),
        (lambda state: state.update(data={}), "does not fit"),
        (lambda state: state["monitor"]["rows"][0].update(objective={}), "rows of metrics: "),
        (lambda state: state.update(format=7), "has format 7"),
    ],
    ids=range(10),
)
def test_a_checkpoint_of_another_version_is_one_line(photos, tmp_path, capsys, change, said):
    out = tmp_path / "run"
    main(["pretrain", str(photos), "--out", str(out), "--epochs", "2", *FAST])
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    change(state)
    torch.save(state, out / "checkpoint.pt")
    (out / "digests.json").unlink()
    assert said in refused(capsys, "pretrain", photos, "--out", out, "--resume")
