import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from sogclr import Augmentation, UserError
from sogclr.common.options import Augmentation as PlainViews
from sogclr.data.images.arrays import ArraySource
from sogclr.data.open_images import open_images
from sogclr.distributed.device import resolve_precision
from sogclr.planning.images import plan_run
from sogclr.planning.settings_images import ImageSettings

USUAL = ImageSettings()


def _source(n, size=32):
    return ArraySource(np.zeros((n, size, size), dtype=np.uint8))


class _Large(ArraySource):
    """Of any size, without the time it takes to give a million arrays their ids."""

    def __init__(self, n):
        super().__init__(np.zeros((2, 1, 1), dtype=np.uint8))
        self.n = n

    def __len__(self):
        return self.n


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


@pytest.mark.parametrize(
    ("encoder", "batch", "asked", "norm"),
    [
        ("small", 8, "auto", "batch"),
        ("small", 16, "batch", "batch"),
        ("small", 256, "group", "group"),
        ("resnet18", 16, "auto", "batch"),
        ("resnet18", 16, "group", "group"),
    ],
)
def test_batch_statistics_are_left_out_on_request(encoder, batch, asked, norm):
    plan = _plan(encoder=encoder, batch_size=batch, norm=asked)
    assert plan.norm == plan.resolved().norm == norm
    [value] = [value for name, value, _ in plan.reasons if name == "normalization"]
    assert value == norm


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


@pytest.mark.parametrize(
    ("n", "changes", "rho"),
    [
        (400, {}, None),
        (400, {"temperature_mode": "learned"}, None),
        (400, {"temperature_mode": "learned", "rho": 1.5}, 1.5),
        (400, {"temperature_mode": "individual"}, math.log(20)),
        (400, {"temperature_mode": "individual", "rho": 5.5}, 5.5),
    ],
)
def test_rho_is_half_the_way_to_uniform_where_each_image_has_a_temperature(n, changes, rho):
    plan = _plan(n=n, size=1, **changes)
    assert plan.rho == plan.resolved().rho == (None if rho is None else pytest.approx(rho))
    assert _plan(n=n, size=1, **{**changes, "rho": plan.rho}).rho == plan.rho  # as resumed


def test_rho_is_at_most_that_of_isogclr():
    own = replace(USUAL, temperature_mode="individual")
    assert plan_run(own, _Large(10**7), "cpu", None).rho == 6


def test_views_asked_for_go_before_the_data_s_and_these_before_the_usual():
    digits = open_images("digits")
    assert plan_run(USUAL, digits, "cpu", None).views.flip == 0.0
    asked = replace(USUAL, views=Augmentation(flip=0.25, blur=1.0))
    views = plan_run(asked, digits, "cpu", None).views
    assert (views.flip, views.blur) == (0.25, 1.0)
    assert None not in vars(views).values()


@pytest.mark.parametrize(
    ("n", "queue_size"),
    [(2, 2), (1797, 1797), (50_000, 4096), (200_000, 8192), (1_281_167, 65_536), (10**7, 65_536)],
)
def test_the_queue_grows_with_the_data(n, queue_size):
    source, moco = _Large(n), replace(USUAL, method="moco")
    plan = plan_run(moco, source, "cpu", None)
    assert plan.queue_size == plan.resolved().queue_size == queue_size
    given = plan_run(replace(moco, queue_size=2 * n), source, "cpu", None)
    assert given.queue_size == 2 * n


def test_the_longer_the_run_the_slower_the_key_encoder():
    def momentum(n, **changes):
        return plan_run(replace(USUAL, method="moco", **changes), _Large(n), "cpu", None).momentum

    cifar = {"n": 50_000, "batch_size": 512, "epochs": 200}
    assert momentum(**cifar) == 0.99
    assert momentum(n=1_281_167, batch_size=256, epochs=200) == 0.999
    assert momentum(n=1000, batch_size=10, epochs=999) == 0.99
    assert momentum(n=1000, batch_size=10, epochs=1000) == 0.999
    assert momentum(n=1000, batch_size=10, epochs=1000, accumulate=2) == 0.99  # optimizer steps
    assert momentum(**cifar, momentum=0.0) == 0.0
    assert _plan(method="moco").resolved().momentum == 0.99


@pytest.mark.parametrize("method", ["sogclr", "simclr", "dcl"])
def test_only_moco_has_a_queue(method):
    plan = _plan(method=method)
    assert plan.queue_size is plan.momentum is None
    assert not {"queue size", "momentum"} & {name for name, _, _ in plan.reasons}


@pytest.mark.parametrize("method", ["sogclr", "moco"])
def test_every_derived_value_has_a_reason(method):
    assert all(reason for _, _, reason in _plan(method=method, accumulate=2).reasons)


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
        ({"gamma_decay_visits": 0}, "gamma-decay-visits"),
        ({"epochs": 0}, "epochs"),
        ({"accumulate": 0}, "accumulate"),
        ({"image_size": 0}, "image-size"),
        ({"learning_rate": -1.0}, "learning-rate"),
        ({"weight_decay": -1.0}, "weight-decay"),
        ({"seed": -1}, "seed"),
        ({"queue_size": 10}, "queue-size: goes with --method moco"),
        ({"momentum": 0.9, "method": "simclr"}, "momentum: goes with --method moco"),
        ({"queue_size": 0, "method": "moco"}, "queue-size: must be at least 1"),
        ({"queue_size": 2001, "method": "moco"}, "queue-size: .* at most 2,000, .* got 2,001"),
        ({"momentum": 1.0, "method": "moco"}, "momentum: must be at least 0 and below 1, got 1"),
        ({"momentum": -0.1, "method": "moco"}, "momentum: must be"),
        ({"momentum": math.nan, "method": "moco"}, "momentum: must be"),
        ({"rho": 7.0, "temperature_mode": "learned"}, "rho: 7 is out of reach: .* 1,000 samples"),
        ({"n": 1}, "one image"),
    ],
)
def test_what_cannot_work_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        _plan(**changes)


@pytest.mark.parametrize("name", ["crop_min", "flip", "gray", "blur", "color"])
@pytest.mark.parametrize("value", [-0.1, 1.5, math.nan])
def test_impossible_views_are_refused(name, value):
    with pytest.raises(UserError, match=name.replace("_", "-")):
        PlainViews(**{name: value})


@pytest.mark.parametrize(
    ("has", "precision"),
    [
        ({"amx_bf16": True, "avx512_bf16": True, "cpu_name": "Intel Xeon"}, "bf16-mixed"),
        ({"amx_bf16": False, "avx512_bf16": True, "cpu_name": "Intel Xeon"}, "32-true"),
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC"}, "bf16-mixed"),
        ({"avx512_bf16": False, "cpu_name": "AMD EPYC"}, "32-true"),
        ({}, "32-true"),
    ],
)
def test_a_cpu_takes_bfloat16_where_that_is_faster(monkeypatch, has, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    assert resolve_precision("auto", "cpu") == precision
    assert resolve_precision("bf16-mixed", "cpu") == "bf16-mixed"
