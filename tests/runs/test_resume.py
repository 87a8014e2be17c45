"""What a run resumes from, and what it never takes over."""

import pytest
import torch

from sogclr import UserError
from sogclr.planning.settings_finetune import FinetuneSettings
from sogclr.planning.settings_images import ImageSettings
from sogclr.planning.settings_pairs import PairSettings
from sogclr.runs.folder import Run
from sogclr.runs.resume import finds_checkpoint, read_resolved


def test_a_new_run_does_not_take_over_a_checkpoint(tmp_path):
    run = Run(tmp_path)
    assert not finds_checkpoint(run, resume=False)
    run.write_checkpoint({"step": 0})  # of a run that was killed before it could write settings
    assert not finds_checkpoint(run, resume=False)
    for state in ({"step": 1}, {"step": 10**6}, {}):
        run.write_checkpoint(state)
        with pytest.raises(UserError, match=r"has lost its settings.json; put the file back"):
            finds_checkpoint(run, resume=False)


def test_a_lost_checkpoint_is_not_replaced_by_a_first_step(tmp_path):
    run = Run(tmp_path)
    run.write_settings({})
    assert not finds_checkpoint(run, resume=True)
    run.write_weights(run.encoder, {"a": torch.zeros(1)})
    with pytest.raises(UserError, match=r"checkpoint.pt is missing; put the file back"):
        finds_checkpoint(run, resume=True)
    run.write_checkpoint({"step": 3})
    assert finds_checkpoint(run, resume=True)


@pytest.mark.parametrize(
    "settings",
    [
        ImageSettings(),
        PairSettings(columns=("a", "b"), dropout=0.1),
        FinetuneSettings(label_share=0.1, epochs=3),
    ],
)
def test_settings_are_read_as_written(tmp_path, settings):
    run = Run(tmp_path)
    run.write_settings({"kind": settings.kind, "resolved": settings.as_dict()})
    assert read_resolved(run.read_settings(), type(settings)) == settings


@pytest.mark.parametrize("kind", ["pairs", "classifier"])
def test_settings_of_another_kind_of_run_are_not_read(tmp_path, kind):
    run = Run(tmp_path)
    run.write_settings({"kind": kind, "resolved": ImageSettings().as_dict()})
    with pytest.raises(UserError, match=r"is a .*; give a run of sogclr pretrain"):
        read_resolved(run.read_settings(), ImageSettings)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"new": 1}, "'new' is unknown; read it with the version"),
        ({"batch_size": "8"}, "batch_size: "),
        ({"method": "other"}, "method: "),
        ({"views": {"flip": 0.5}}, "views: 'crop_min' is missing"),
        ({"views": None}, "views: must be an object"),
        ({"seed": 1.5}, "seed: "),
        ({"weights": ["/etc/passwd"]}, "weights: "),
        ({"temperature": -1}, "--temperature: must be above 0"),
    ],
)
def test_settings_of_another_version_are_one_line(tmp_path, changes, said):
    run = Run(tmp_path)
    run.write_settings({"resolved": {**ImageSettings().as_dict(), **changes}})
    with pytest.raises(UserError, match=said):
        read_resolved(run.read_settings(), ImageSettings)


@pytest.mark.parametrize("name", ["gamma_min", "epochs", "views", "precision"])
def test_settings_that_lack_one_are_one_line(tmp_path, name):
    run, stored = Run(tmp_path), ImageSettings().as_dict()
    del stored[name]
    run.write_settings({"resolved": stored})
    with pytest.raises(UserError, match=f"'{name}' is missing"):
        read_resolved(run.read_settings(), ImageSettings)
