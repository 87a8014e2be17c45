"""The options of `preview` are those of `pretrain` and `align`."""

from dataclasses import fields
from typing import get_type_hints

import pytest

from sogclr import Augmentation, UserError
from sogclr.planning.settings_images import ImageSettings, PretrainArguments
from sogclr.planning.settings_pairs import AlignArguments, PairSettings
from sogclr.planning.settings_preview import FOR_IMAGES, FOR_PAIRS, PreviewArguments

OWN = {f.name: f for f in fields(PreviewArguments)}
THEIRS = {kind: {f.name: f for f in fields(kind)} for kind in (PretrainArguments, AlignArguments)}


@pytest.mark.parametrize("name", sorted(OWN.keys() - {"data", "out"}))
def test_an_option_has_the_type_and_the_default_of_the_commands_that_have_it(name):
    having = [kind for kind in THEIRS if name in THEIRS[kind]]
    assert having
    if name in FOR_IMAGES:
        assert having == [PretrainArguments]
    elif name in FOR_PAIRS:
        assert having == [AlignArguments]
    for kind in having:
        other = THEIRS[kind][name]
        assert (OWN[name].default, OWN[name].default_factory) == (
            other.default,
            other.default_factory,
        )
        types = [get_type_hints(each)[name] for each in (PreviewArguments, kind)]
        assert types[0] == types[1]


def test_values_reach_the_settings_of_both_commands():
    views = Augmentation(flip=1.0)
    given = PreviewArguments("x", image_size=24, seed=5, views=views, columns="a,b")
    for kind in (ImageSettings, PairSettings):
        settings = given.settings(kind)
        assert (settings.image_size, settings.seed, settings.views) == (24, 5, views)
    assert given.settings(PairSettings).columns == ("a", "b")
    assert given.settings(ImageSettings, encoder="custom:Net").encoder == "custom:Net"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"seed": -1}, "--seed: must be at least 0"),
        ({"seed": 2**63}, "--seed: .*less than"),
        ({"image_size": 0}, "--image-size: must be at least 1, got 0"),
        ({"context_length": 2}, "--context-length: must be at least 3"),
        ({"model": "ViT-B-32", "image_tower": "resnet18"}, "--image-tower: is for joined towers"),
    ],
)
def test_values_that_cannot_work_are_refused(options, match):
    with pytest.raises(UserError, match=match):
        PreviewArguments("x", **options)
