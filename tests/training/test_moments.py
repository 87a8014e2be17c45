"""Callbacks are called at their moments, change nothing, and lose nothing when they fail."""

import json

import pytest
import torch
from helpers.bits import checkpoint, same
from helpers.interrupting import interrupt_after

import sogclr
from sogclr import UserError
from sogclr.runs.folder import Run

SHORT = {"encoder": "small", "image_size": 8, "batch_size": 8, "device": "cpu", "epochs": 2}
MOMENTS = ("on_train_start", "on_log", "on_epoch_end", "on_train_end")


class Recorder(sogclr.Callback):
    """Notes each moment with its step and epoch."""

    def __init__(self):
        self.calls, self.metrics = [], []

    def on_train_start(self, state):
        self.calls.append(("on_train_start", state.step, state.epoch))

    def on_log(self, state):
        self.calls.append(("on_log", state.step, state.epoch))
        self.metrics.append(state.metrics)

    def on_epoch_end(self, state):
        self.calls.append(("on_epoch_end", state.step, state.epoch))

    def on_train_end(self, state):
        self.calls.append(("on_train_end", state.step, state.epoch))
        assert Run(state.folder).read_checkpoint()["step"] == state.step


def test_the_four_moments_in_their_order(make_folder, tmp_path, monkeypatch):
    """16 images in batches of 8: two steps an epoch, each logged; across an interruption."""
    photos, run = make_folder(), tmp_path / "run"
    interrupt_after(monkeypatch, 2)
    first, second = Recorder(), Recorder()
    sogclr.pretrain(photos, run, callbacks=[first], **SHORT)
    sogclr.pretrain(photos, run, resume=True, callbacks=(second,))
    assert first.calls == [
        ("on_train_start", 0, 0),
        ("on_log", 1, 0.5),
        ("on_log", 2, 1),
        ("on_epoch_end", 2, 1),
        ("on_log", 3, 1.5),
        ("on_train_end", 3, 1.5),
    ]
    assert second.calls == [
        ("on_train_start", 3, 1.5),
        ("on_log", 4, 2),
        ("on_epoch_end", 4, 2),
        ("on_train_end", 4, 2),
    ]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert first.metrics + second.metrics == rows


class Disturber(sogclr.Callback):
    """Draws random numbers, evaluates the model and spoils its copy of the metrics."""

    def on_train_start(self, state):
        torch.rand(3)

    def on_log(self, state):
        state.model.eval()
        with torch.no_grad():
            state.model(torch.rand(2, 3, 8, 8))
        state.metrics.clear()


def test_callbacks_change_nothing_in_the_result(make_folder, tmp_path):
    photos = make_folder()
    sogclr.pretrain(photos, tmp_path / "a", **SHORT)
    sogclr.pretrain(photos, tmp_path / "b", callbacks=[Disturber()], **SHORT)
    assert same(checkpoint(tmp_path / "a"), checkpoint(tmp_path / "b"))


def failing_at(moment, step):
    """A callback that raises an error once."""

    def fail(self, state):
        self.calls.append(moment)
        if state.step == step:
            raise ValueError("no such\nthing")

    body = {moment: fail, "calls": []}
    return type("Mine", (sogclr.Callback,), body)()


@pytest.mark.parametrize(
    ("moment", "step"), list(zip(MOMENTS, (0, 1, 2, 4), strict=True)), ids=MOMENTS
)
def test_a_callback_that_fails_ends_the_run_so_that_it_can_be_resumed(
    make_folder, tmp_path, moment, step
):
    photos, run = make_folder(), tmp_path / "run"
    sogclr.pretrain(photos, tmp_path / "whole", **SHORT)
    mine = failing_at(moment, step)
    message = rf"^callbacks: Mine.{moment} raised ValueError \(no such thing\) at step {step}; "
    with pytest.raises(UserError, match=message) as error:
        sogclr.pretrain(photos, run, callbacks=[mine], **SHORT)
    assert isinstance(error.value.__cause__, ValueError)  # Python shows where it was raised
    called = list(mine.calls)
    if step:
        assert checkpoint(run)["step"] == step
    assert sogclr.pretrain(photos, run, resume=True).complete
    assert mine.calls == called
    assert same(checkpoint(tmp_path / "whole"), checkpoint(run))


class StopAt(sogclr.Callback):
    def on_log(self, state):
        if state.step == 3:
            state.stop()


def test_a_callback_can_stop_the_run(make_folder, tmp_path):
    photos, run = make_folder(), tmp_path / "run"
    result = sogclr.pretrain(photos, run, callbacks=[StopAt()], **SHORT)
    assert not result.complete
    assert checkpoint(run)["step"] == 3
    assert sogclr.pretrain(photos, run, resume=True).complete


@pytest.mark.parametrize("wrong", [[print], Recorder(), [Recorder]])
def test_what_is_no_callback_is_refused_before_training(make_folder, tmp_path, wrong):
    with pytest.raises(UserError, match=r"^callbacks: "):
        sogclr.pretrain(make_folder(), tmp_path / "run", callbacks=wrong, **SHORT)
    assert not (tmp_path / "run").exists()
