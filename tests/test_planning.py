import math
from dataclasses import replace

import numpy as np
import pytest

from sogclr import UserError, Views
from sogclr.data.arrays import ArraySource
from sogclr.data.source import open_source
from sogclr.planning import Request, plan_run
from sogclr.settings import Views as PlainViews

USUAL = Request(
    method="sogclr",
    encoder="auto",
    batch_size=None,
    epochs=100,
    image_size=None,
    temperature=None,
    gamma_min=0.2,
    gamma_decay=None,
    accumulate=1,
    optimizer="auto",
    learning_rate=None,
    weight_decay=None,
    pretrained=False,
    weights=None,
    precision="auto",
    views=Views(),
    seed=0,
)


def _source(n, size=32):
    return ArraySource(np.zeros((n, size, size), dtype=np.uint8))


def _plan(n=1000, size=32, device="cpu", workers=None, **changes):
    return plan_run(replace(USUAL, **changes), _source(n, size), device, workers)


def test_what_is_given_is_taken():
    plan = _plan(
        encoder="resnet34", batch_size=10, image_size=48, temperature=0.37, optimizer="lars",
        learning_rate=0.123, weight_decay=0.5, precision="bf16-mixed", workers=3,
    )  # fmt: skip
    assert (plan.encoder, plan.batch_size, plan.image_size) == ("resnet34", 10, 48)
    assert (plan.temperature, plan.precision, plan.workers) == (0.37, "bf16-mixed", 3)
    assert vars(plan.recipe) == {"optimizer": "lars", "learning_rate": 0.123, "weight_decay": 0.5}
    given = {name for name, _, reason in plan.reasons if reason == "as given"}
    assert {"encoder", "batch size", "temperature", "optimizer", "learning rate"} <= given


@pytest.mark.parametrize("n", [2, 3, 17, 600, 1797, 5000, 100_000])
def test_derived_batches_are_possible_and_leave_enough_steps(n):
    size = _plan(n=n, size=1).batch_size
    assert 2 <= size <= min(n, 256)
    assert size <= 16 or n / size >= 32


@pytest.mark.parametrize("optimizer", ["lars", "sgd", "adamw"])
def test_learning_rate_follows_the_root_of_the_whole_batch(optimizer):
    rate = lambda **c: _plan(optimizer=optimizer, **c).recipe.learning_rate  # noqa: E731
    base = rate(batch_size=64)
    assert rate(batch_size=256) == pytest.approx(2 * base)
    assert rate(batch_size=16, accumulate=4) == pytest.approx(base)


def test_lars_is_the_papers_recipe():
    recipe = _plan(optimizer="lars", batch_size=256).recipe
    assert recipe.learning_rate == pytest.approx(0.075 * math.sqrt(256))
    assert recipe.weight_decay == 1e-6


def test_encoder_and_temperature_follow_device_and_size():
    assert _plan(size=32).encoder == "small"
    assert _plan(size=32, device="cuda").encoder == "resnet18"
    assert _plan(size=128, device="cuda").encoder == "resnet50"
    assert _plan(size=32).temperature == 0.2
    assert _plan(size=128).temperature == 0.1


def test_views_asked_for_go_before_the_data_s_and_these_before_the_usual():
    digits = open_source("digits")
    assert plan_run(USUAL, digits, "cpu", None).views.flip == 0.0
    asked = replace(USUAL, views=Views(flip=0.25, blur=1.0))
    views = plan_run(asked, digits, "cpu", None).views
    assert (views.flip, views.blur) == (0.25, 1.0)
    assert None not in vars(views).values()


def test_every_derived_value_has_a_reason():
    assert all(reason for _, _, reason in _plan(accumulate=2).reasons)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 1}, "leaves no negatives"),
        ({"batch_size": 1001}, "more than the 1,000 images"),
        ({"temperature": 0.0}, "temperature: must be above 0"),
        ({"temperature": -1.0}, "temperature: must be above 0"),
        ({"temperature": math.nan}, "temperature: must be above 0"),
        ({"temperature": math.inf}, "temperature: must be above 0"),
        ({"gamma_min": 0.0}, "gamma-min"),
        ({"gamma_min": 1.5}, "gamma-min"),
        ({"gamma_decay": 0}, "gamma-decay"),
        ({"epochs": 0}, "epochs"),
        ({"accumulate": 0}, "accumulate"),
        ({"image_size": 0}, "image-size"),
        ({"learning_rate": -1.0}, "learning-rate"),
        ({"weight_decay": -1.0}, "weight-decay"),
        ({"seed": -1}, "seed"),
        ({"workers": -1}, "workers"),
        ({"n": 1}, "one image"),
    ],
)
def test_what_cannot_work_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        _plan(**changes)


@pytest.mark.parametrize("name", ["crop_min", "flip", "gray", "blur", "color"])
@pytest.mark.parametrize("value", [-0.1, 1.5, math.nan])
def test_impossible_views_are_refused(name, value):
    with pytest.raises(UserError, match=name):
        PlainViews(**{name: value})
