"""Settings: what is refused whatever the data, and the way to settings.json and back."""

import json
from dataclasses import fields, replace

import pytest
from torch import nn

from sogclr import Augmentation, UserError
from sogclr.planning.settings_images import ImageSettings, PretrainArguments
from sogclr.planning.settings_pairs import AlignArguments, PairSettings


@pytest.mark.parametrize(
    "settings",
    [
        ImageSettings(method="moco", queue_size=10, views=Augmentation(flip=0.25)),
        ImageSettings(temperature_mode="individual", rho=2.5),
        PairSettings(columns="a,b", temperature_mode="learned", rho=0.5, text_tower="x"),
    ],
)
def test_they_come_back_from_json(settings):
    assert type(settings).from_dict(json.loads(json.dumps(settings.as_dict()))) == settings


def test_columns_are_a_sequence_or_separated_by_commas():
    assert PairSettings(columns=["a", "b"]) == PairSettings(columns="a, b")
    assert PairSettings(columns=["a,b", "c"]).columns == ("a,b", "c")


def test_an_image_tower_of_ones_own_is_stored_by_the_name_of_its_class():
    assert PairSettings(image_tower=nn.Linear(2, 2)).as_dict()["image_tower"] == "custom:Linear"


@pytest.mark.parametrize(
    ("kind", "arguments"), [(ImageSettings, PretrainArguments), (PairSettings, AlignArguments)]
)
def test_what_may_change_when_a_run_is_resumed_is_not_stored(kind, arguments):
    settings = kind.from_arguments(arguments("data", "out", resume=True, device="cpu", seed=3))
    assert settings == kind(seed=3)
    stored, given = ({f.name for f in fields(c)} for c in (kind, arguments))
    others = {"data", "out", "device", "workers", "shard_model", "checkpoint_seconds", "resume"}
    others |= {"process_timeout", "checkpoint_activations", "logger", "config", "callbacks"}
    others |= {"dry_run"}
    assert given - stored == others | ({"val", "freeze"} if kind is PairSettings else set())


@pytest.mark.parametrize("kind", [ImageSettings, PairSettings])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rho": 0.0, "temperature_mode": "learned"}, "--rho: must be above 0, got 0"),
        ({"rho": float("nan"), "temperature_mode": "learned"}, "--rho: must be above 0, got nan"),
        ({"rho": 1.0}, "--rho: goes with --temperature-mode learned"),
        ({"temperature_mode": "individual", "method": "dcl"}, "--temperature-mode: individual"),
        ({"temperature_mode": "own"}, "--temperature-mode: 'own' is unknown; give one of constant"),
    ],
)
def test_both_refuse_a_temperature_that_cannot_work(kind, changes, message):
    with pytest.raises(UserError) as error:
        kind(**changes)
    assert message in str(error.value)


@pytest.mark.parametrize("method", ["simclr", "moco"])
def test_images_have_no_own_temperatures_without_a_table(method):
    with pytest.raises(UserError, match=f"--method sogclr, not with {method}"):
        ImageSettings(method=method, temperature_mode="individual")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature_mode": "individual", "method": "clip"}, "--temperature-mode: individual"),
        ({"temperature_mode": "learned", "method": "siglip"}, "siglip always learns"),
        ({"dropout": 1.0}, "--dropout: must be at least 0 and below 1, got 1"),
        ({"width": 0}, "--width: must be at least 1, got 0"),
        ({"image_size": 0}, "--image-size: must be at least 1, got 0"),
        ({"pretrained": "openai"}, "--pretrained: goes with --model"),
        ({"model": "x", "text_tower": "y"}, "--text-tower: is for joined towers"),
        ({"memory_size": 4, "method": "clip"}, "--memory-size: goes with --method sogclr"),
        ({"batch_size": 1}, "--batch-size: 1 leaves no negatives"),
        ({"precision": "16"}, "--precision: '16' is unknown; give one of auto, 32-true"),
    ],
)
def test_pairs_refuse_what_cannot_work(changes, message):
    with pytest.raises(UserError) as error:
        replace(PairSettings(), **changes)
    assert message in str(error.value)


@pytest.mark.parametrize("arguments", [PretrainArguments, AlignArguments])
@pytest.mark.parametrize("seconds", [-1, -0.5, float("nan"), float("-inf")])
def test_negative_times_between_checkpoints_are_refused(arguments, seconds):
    with pytest.raises(UserError, match=r"^--checkpoint-seconds: must not be negative, got "):
        arguments("data", "out", checkpoint_seconds=seconds)
    assert arguments("data", "out", checkpoint_seconds=0).checkpoint_seconds == 0
