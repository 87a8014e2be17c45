"""What a classifier leaves open is derived from the number of labels, and explained."""

from dataclasses import replace

import pytest
from helpers.refusal import refused

from sogclr.common.options import Augmentation
from sogclr.planning.finetune_plan import plan_finetuning
from sogclr.planning.settings_finetune import FinetuneSettings

VIEWS = Augmentation(crop_min=0.3, flip=0.0, color=1.0, gray=0.2, blur=0.5)


def plan(n, request=FinetuneSettings()):  # noqa: B008 (immutable)
    return plan_finetuning(request, n, VIEWS, True, "cpu", None)


@pytest.mark.parametrize(("n", "epochs"), [(50, 100), (400, 40), (100_000, 30)])
def test_few_labels_get_more_epochs(n, epochs):
    assert plan(n).epochs == epochs


def test_the_trained_encoder_learns_more_slowly_than_the_head_and_the_initial_one_does_not():
    assert plan(100).learning_rate < plan(100).head_learning_rate
    initial = plan(100, FinetuneSettings(initial=True))
    assert initial.learning_rate == initial.head_learning_rate


def test_crop_and_flip_of_the_run_are_kept_and_its_colours_are_not():
    assert plan(100).views == replace(VIEWS, color=0.0, gray=0.0, blur=0.0)


def test_a_resumed_plan_is_the_same():
    first = plan(500, FinetuneSettings(label_share=0.1, seed=3))
    again = plan(900, first.resolved())  # the data has grown
    assert again.resolved() == first.resolved()
    assert all(why for _, _, why in first.reasons)


def test_the_head_alone_needs_no_steps(capsys, tmp_path):
    given = plan(100, FinetuneSettings(only_head=True))
    assert given.resolved().epochs is None
    line = refused(capsys, "finetune", tmp_path, tmp_path, "--only-head", "--epochs", "3")
    assert "--epochs: has no effect with --only-head" in line


@pytest.mark.parametrize("share", ["0", "1.5", "nan", "-1"])
def test_impossible_shares_are_refused(share, capsys, tmp_path):
    assert "--label-share: must be above 0 and at most 1" in refused(
        capsys, "finetune", tmp_path, tmp_path, "--label-share", share
    )
