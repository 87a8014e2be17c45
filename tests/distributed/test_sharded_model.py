"""Which modules are gathered at a time, where weights are sharded; and what cannot be."""

import pytest
import timm
import torch
from torch import nn

from sogclr import UserError
from sogclr.distributed import sharded_model
from sogclr.models.encoders import ContrastiveModel
from sogclr.models.towers import PairModel


def gathered(model, monkeypatch):
    """Their names; each comes after those within it."""
    found = []
    monkeypatch.setattr(sharded_model, "fully_shard", lambda module, mesh: found.append(module))
    monkeypatch.setattr(sharded_model, "_copy_from_first_process", lambda model, mesh: None)
    sharded_model.shard(model, None)
    for place, module in enumerate(found):
        assert not set(found[place + 1 :]) & set(module.modules())
    names = {module: name for name, module in model.named_modules()}
    return {names[module] for module in found}


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("test_vit", [f"blocks.{i}" for i in range(6)]),
        # Stages, and blocks where a stage has several: two, four and two.
        (
            "test_convnext",
            [f"stages.{i}" for i in range(4)]
            + [
                f"stages.{i}.blocks.{j}"
                for i, count in enumerate((0, 2, 4, 2))
                for j in range(count)
            ],
        ),
    ],
)
def test_blocks_of_a_tower(name, blocks, monkeypatch):
    encoder = timm.create_model(name, num_classes=0)
    model = ContrastiveModel(encoder, nn.Linear(8, 8))
    expected = {"", "encoder", "projector", *(f"encoder.{block}" for block in blocks)}
    assert gathered(model, monkeypatch) == expected


def test_towers_of_pairs(monkeypatch):
    towers = {"image": nn.Linear(3, 2), "text": nn.TransformerEncoderLayer(4, 1)}
    found = gathered(PairModel(towers, ("image", "text")), monkeypatch)
    assert found == {"", "trained.image", "trained.text"}


def test_a_parameter_that_cannot_be_divided_is_named():
    model = nn.ModuleDict({"gain": nn.ParameterList([nn.Parameter(torch.tensor(1.0))])})
    with pytest.raises(UserError, match=r"shard-model: the parameter gain\.0 is a single number"):
        sharded_model.shard(model, None)
