"""`torch.compile` takes a loss whole, its table's update included; no step waits for a device.

With an old torch, it goes around the loss.
"""

import copy
from functools import partial

import pytest
import torch

from sogclr import (
    ClipLoss,
    DecoupledContrastiveLoss,
    GlobalClipLoss,
    GlobalContrastiveLoss,
    IndividualTemperature,
    LearnedTemperature,
    NTXentLoss,
    SigLipLoss,
)
from sogclr.losses.normalizer_scalar import ScalarNormalizer
from sogclr.losses.normalizer_scent import ScentNormalizerTable
from sogclr.losses.torch_versions import COMPILES

DOUBLE = {"dtype": torch.float64}
SCALAR = partial(ScalarNormalizer, **DOUBLE)
SCENT = partial(ScentNormalizerTable, log_alpha=-1.0, **DOUBLE)
LOSSES = {
    "two views": lambda: GlobalContrastiveLoss(50, **DOUBLE),
    "pairs": lambda: GlobalClipLoss(50, **DOUBLE),
    "level": lambda: GlobalContrastiveLoss(50, level=True, **DOUBLE),
    "level of pairs": lambda: GlobalClipLoss(50, level=True, **DOUBLE),
    "scalar": lambda: GlobalContrastiveLoss(50, normalizer=SCALAR, **DOUBLE),
    "scalar of pairs": lambda: GlobalClipLoss(50, normalizer=SCALAR, memory_size=9, **DOUBLE),
    "SCENT": lambda: GlobalContrastiveLoss(50, normalizer=SCENT, **DOUBLE),
    "SCENT of pairs": lambda: GlobalClipLoss(50, normalizer=SCENT, **DOUBLE),
    "small, with candidates": lambda: GlobalClipLoss(
        50, temperature=0.005, effective_negatives=9, **DOUBLE
    ),
    "learned": lambda: GlobalContrastiveLoss(50, temperature=LearnedTemperature(), **DOUBLE),
    "individual": lambda: GlobalClipLoss(50, temperature=IndividualTemperature(rho=1.0), **DOUBLE),
    "recent": lambda: GlobalContrastiveLoss(50, memory_size=9, **DOUBLE),
    "recent pairs": lambda: GlobalClipLoss(50, memory_size=9, **DOUBLE),
    "keys": lambda: GlobalContrastiveLoss(50, **DOUBLE),
    "keys of pairs": lambda: GlobalClipLoss(50, memory_size=9, **DOUBLE),
    "SimCLR": NTXentLoss,
    "DCL": DecoupledContrastiveLoss,
    "CLIP": ClipLoss,
    "SigLIP": SigLipLoss,
}


@pytest.fixture(autouse=True)
def nothing_compiled():
    """Losses of all kinds share code, and torch keeps few compiled versions of a function."""
    torch.compiler.reset()


def told(name, index):
    """What a loss of this name is told beside the features: rows, and keys of 4 samples."""
    keys = (
        {"sample_key": torch.arange(6, device=index.device) % 4 * 2**40} if "keys" in name else {}
    )
    return {"index": index, **keys}


# Equal ids: eagerly the host looks for them, in a graph it must not.
INDICES = [[3, 1, 4, 15, 9, 2], [3, 1, 4, 1, 5, 1]]


@pytest.mark.parametrize("name", LOSSES)
def test_a_compiled_loss_is_the_loss(name):
    eager = LOSSES[name]()
    # Traced and differentiated as for a device, run as here: no compiler is needed.
    compiled = torch.compile(copy.deepcopy(eager), fullgraph=COMPILES, backend="aot_eager")
    for step, index in enumerate(3 * INDICES):
        generator = torch.Generator().manual_seed(step)
        found = []
        sides = torch.randn(2, 6, 8, generator=generator, **DOUBLE)
        for loss in (eager, compiled):
            pair = [side.clone().requires_grad_() for side in sides]
            value = loss(*pair, **told(name, torch.tensor(index)))
            inputs = [*pair, *loss.parameters()]
            found.append([value.detach(), *torch.autograd.grad(value, inputs)])
        torch.testing.assert_close(*found)
    torch.testing.assert_close(compiled._orig_mod.state_dict(), eager.state_dict())


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_reads_nothing_back(name):
    """On the meta device there is nothing to read: a step that waited for a value would raise."""
    loss = LOSSES[name]().to("meta")
    pair = [torch.ones(6, 8, device="meta", requires_grad=True) for _ in range(2)]
    value = loss(*pair, **told(name, torch.zeros(6, dtype=torch.int64, device="meta")))
    value.backward()
    assert all(side.grad.shape == side.shape for side in pair)


@pytest.mark.parametrize("name", LOSSES)
def test_state_stays_where_it_is(name):
    """A CUDA graph would go on with the memory that it was captured with."""
    loss, places = LOSSES[name](), []
    for step in range(3):
        pair = torch.randn(2, 6, 8, **DOUBLE).requires_grad_()
        loss(*pair, **told(name, torch.arange(step, step + 6))).backward()
        places.append({name: each.data_ptr() for name, each in loss.state_dict().items()})
    assert places[1] == places[2]


def test_a_step_around_a_loss_is_compiled():
    """The encoder too is in the compiled function, as in a training step of a user."""
    torch.manual_seed(0)
    encoder, loss = torch.nn.Linear(8, 4).double(), GlobalContrastiveLoss(50, **DOUBLE)
    again = copy.deepcopy(loss)

    def step(loss, a, b, index):
        return loss(encoder(a), encoder(b), index) + 1

    compiled = torch.compile(step, backend="aot_eager")
    for index in INDICES:
        a, b = torch.randn(2, 6, 8, **DOUBLE).unbind()
        values = [
            do(each, a, b, torch.tensor(index)) for do, each in ((step, loss), (compiled, again))
        ]
        gradients = [torch.autograd.grad(value, encoder.weight) for value in values]
        torch.testing.assert_close(*values)
        torch.testing.assert_close(*gradients)
