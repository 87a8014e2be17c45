"""Trackers have what metrics.jsonl has, each step once, and never end or change a run."""

import json
import sys
from contextlib import suppress

import pytest
from helpers.bits import checkpoint, same
from helpers.tracker_stand_ins import NAMES, add_stand_in, prepare_real

import sogclr
from sogclr import UserError
from sogclr.training.loop import Trainer

SHORT = {"encoder": "small", "image_size": 8, "batch_size": 8, "device": "cpu", "epochs": 3}


def lines_of(run):
    """What trackers should have: {step: {name: value}}."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row.pop("step"): {k: v for k, v in row.items() if v is not None} for row in rows}


def kill_at_save(monkeypatch, number):
    """End a run at once where it would save for this time, after it has logged."""
    original, count = Trainer.save, []

    def save(self):
        count.append(self.step)
        if len(count) == number:
            raise KeyboardInterrupt
        original(self)

    monkeypatch.setattr(Trainer, "save", save)


@pytest.mark.parametrize("kind", ["stand-in", "real"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")  # of the libraries
def test_killed_and_resumed_a_tracker_has_the_metrics_of_one_run(
    make_folder, tmp_path, monkeypatch, name, kind
):
    if kind == "real":
        (tmp_path / "trackers").mkdir()
        reader = prepare_real(name, tmp_path / "trackers", monkeypatch)
        pytest.importorskip(name)  # Trackio reads its variables when it is imported.
    else:
        store = add_stand_in(name, monkeypatch)
    photos, run = make_folder(), tmp_path / "run"
    kill_at_save(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        sogclr.pretrain(photos, run, logger=name, checkpoint_seconds=0, **SHORT)
    before = lines_of(run)
    assert len(before) > checkpoint(run)["step"] > 0  # a step will be computed again
    assert sogclr.pretrain(photos, run, resume=True).complete
    runs = reader(tmp_path / "trackers") if kind == "real" else store.lines
    (received,) = runs.values()
    # Steps that were computed twice took other times.
    assert sorted(received) == sorted(lines_of(run))
    for step, line in {**lines_of(run), **before}.items():
        assert received[step] == pytest.approx(line)
    assert list(json.loads((run / "trackers.json").read_text())) == ["format", name]


@pytest.mark.parametrize("name", NAMES)
def test_trackers_have_settings_and_the_end_of_the_run(make_folder, tmp_path, monkeypatch, name):
    store, run = add_stand_in(name, monkeypatch), tmp_path / "run"
    sogclr.pretrain(make_folder(), run, logger=[name], seed=5, **SHORT)
    (id,) = store.lines
    assert store.ends[id] in (0, "FINISHED", "finished")
    assert str(store.settings[id]["seed"]) == "5"
    assert str(store.settings[id]["views.flip"]) == "0.5"


def test_tensorboard_has_the_metrics_too(make_folder, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    sogclr.pretrain(make_folder(), run, **SHORT)
    curves = EventAccumulator(str(run / "tb")).Reload()
    drawn = {}
    for name in curves.Tags()["scalars"]:
        for point in curves.Scalars(name):
            drawn.setdefault(point.step, {})[name] = point.value
    assert drawn == {step: pytest.approx(line) for step, line in lines_of(run).items()}
    assert not (run / "trackers.json").exists()


@pytest.mark.parametrize("fail_at", [0, 3])
def test_a_tracker_that_fails_is_said_once_and_gets_later_what_it_missed(
    make_folder, tmp_path, monkeypatch, capsys, fail_at
):
    stores = {name: add_stand_in(name, monkeypatch) for name in NAMES}
    stores["mlflow"].fail_at = fail_at
    photos, run, names = make_folder(), tmp_path / "run", ",".join(NAMES)
    assert sogclr.pretrain(photos, run, logger=names, **SHORT).complete
    assert capsys.readouterr().err.count("mlflow: failed (ConnectionError: no route to host)") == 1
    whole = lines_of(run)
    for name in ("wandb", "trackio"):
        assert list(stores[name].lines.values()) == [whole]
    assert sum(map(len, stores["mlflow"].lines.values())) == max(0, fail_at - 1)

    stores["mlflow"].fail_at = None
    assert sogclr.pretrain(photos, run, resume=True).complete
    assert "failed" not in capsys.readouterr().err
    for name in NAMES:
        assert list(stores[name].lines.values()) == [whole]


def test_a_tracker_that_was_left_out_for_a_while_has_no_gap(make_folder, tmp_path, monkeypatch):
    stores = {name: add_stand_in(name, monkeypatch) for name in NAMES}
    photos, run = make_folder(), tmp_path / "run"
    for number, names in enumerate(["wandb", "tensorboard", "trackio,wandb"]):
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            kill_at_save(patch, 3 if number < 2 else None)
            sogclr.pretrain(
                photos, run, logger=names, checkpoint_seconds=0, resume=number > 0, **SHORT
            )
    assert checkpoint(run)["step"] == 6
    for name in ("wandb", "trackio"):
        (received,) = stores[name].lines.values()
        assert sorted(received) == sorted(lines_of(run))


def test_trackers_change_nothing_in_the_result(make_folder, tmp_path, monkeypatch):
    for name in NAMES:
        add_stand_in(name, monkeypatch)
    photos = make_folder()
    sogclr.pretrain(photos, tmp_path / "a", **SHORT)
    sogclr.pretrain(photos, tmp_path / "b", logger=NAMES, **SHORT)
    assert same(checkpoint(tmp_path / "a"), checkpoint(tmp_path / "b"))


def test_a_library_that_is_missing_is_named_with_its_extra(make_folder, tmp_path, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setattr("sogclr.commands.early_checks.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--logger: wandb .* pip install 'sogclr\[wandb\]'$"):
        sogclr.pretrain(make_folder(), run, logger="wandb", **SHORT)
    with pytest.raises(UserError, match="--logger: 'wand' is unknown; give one or more of tensor"):
        sogclr.pretrain(make_folder(), run, logger="wand", **SHORT)
    assert not run.exists()


def test_a_run_goes_on_where_its_tracker_is_not_installed(
    make_folder, tmp_path, monkeypatch, capsys
):
    photos, run = make_folder(), tmp_path / "run"
    with monkeypatch.context() as patch:
        add_stand_in("wandb", patch)
        sogclr.pretrain(photos, run, logger="wandb", **SHORT)
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert sogclr.pretrain(photos, run, resume=True).complete
    assert "wandb: failed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "stored",
    [{"wandb": {"id": 3, "sent": None}}, {"os": {"id": "a", "sent": 1}}, {"wandb": {"id": "a"}}],
)
def test_a_damaged_list_of_trackers_is_refused(make_folder, tmp_path, stored):
    photos, run = make_folder(), tmp_path / "run"
    sogclr.pretrain(photos, run, **SHORT)
    (run / "trackers.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"run: trackers.json: "):
        sogclr.pretrain(photos, run, resume=True)
