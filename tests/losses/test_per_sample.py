"""State per sample in other people's frames: DDP, casts, copies, checkpoints of activations."""

import copy

import pytest
import torch
from helpers.launching import spread
from helpers.losses_in_frames import MAKERS, SAMPLES, WIDTH, compute
from helpers.losses_in_frames import work as work_in_frames
from torch import nn
from torch.utils.checkpoint import checkpoint

from sogclr import NTXentLoss

ALONE = [name for name in MAKERS if "sharded" not in name]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    spread(2, work_in_frames, 2, str(folder))
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", MAKERS)
def test_state_is_the_same_inside_a_ddp_module_and_beside_it(found, name):
    for process in found:
        (inside, sent), (beside, _) = process[name, True], process[name, False]
        assert inside.keys() == beside.keys()
        for key, state in inside.items():
            assert torch.equal(state, beside[key]), key
        assert sent == 0  # DDP has nothing to broadcast


def step(loss, seed=0):
    draw = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(6, WIDTH, generator=draw).requires_grad_() for _ in range(2))
    compute(loss, a, b, torch.arange(6) + seed).backward()
    return loss


def owners(loss, state):
    return [(key, loss.get_submodule(key.rpartition(".")[0])) for key in state]


@pytest.mark.parametrize("name", ALONE)
def test_state_is_saved_loaded_copied_and_moved_as_buffers_are(name):
    loss, other = step(MAKERS[name]()), MAKERS[name]()
    kept = copy.deepcopy(loss.state_dict())
    outer, fresh = nn.ModuleDict({"loss": loss}), nn.ModuleDict({"loss": other})
    assert set(outer.state_dict()) == {f"loss.{key}" for key in kept}
    fresh.load_state_dict(outer.state_dict())
    for each in (other, copy.deepcopy(loss), loss.bfloat16(), loss.to("cpu")):
        state = {key: value for key, value in each.state_dict().items() if key in kept}
        torch.testing.assert_close(state, kept, rtol=0, atol=0)
    loss.to("meta")
    moved = [getattr(module, key.rpartition(".")[2]) for key, module in owners(loss, kept)]
    assert len(moved) == len(kept)
    assert all(state.device.type == "meta" for state in moved)


@pytest.mark.parametrize("name", ALONE)
def test_missing_unknown_and_unfit_state_is_refused_by_name(name):
    loss = MAKERS[name]()
    state = loss.state_dict()
    key = next(key for key in state if not key.startswith("memory"))
    with pytest.raises(RuntimeError, match=f"Missing key.*{key}"):
        loss.load_state_dict({k: v for k, v in state.items() if k != key})
    with pytest.raises(RuntimeError, match="Unexpected key"):
        loss.load_state_dict({**state, f"{key}2": state[key]})
    with pytest.raises(RuntimeError, match=f"size mismatch for {key}"):
        loss.load_state_dict({**state, key: torch.zeros(SAMPLES + 7, 3)})


@pytest.mark.parametrize("name", ALONE)
def test_a_loss_whose_state_a_checkpoint_would_update_twice_is_refused(name):
    loss = MAKERS[name]()
    a, b = (torch.randn(6, WIDTH, requires_grad=True) for _ in range(2))
    value = checkpoint(compute, loss, a, b, torch.arange(6), use_reentrant=True)
    before = copy.deepcopy(loss.state_dict())
    with pytest.raises(RuntimeError, match="checkpoint to the encoder, not to the loss"):
        value.backward()
    torch.testing.assert_close(loss.state_dict(), before, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", ALONE)
def test_a_checkpoint_that_computes_no_loss_again_is_right(name):
    plain, inside = MAKERS[name](), MAKERS[name]()
    a, b = (torch.randn(6, WIDTH, requires_grad=True) for _ in range(2))
    for _ in range(2):
        value = checkpoint(compute, inside, a, b, torch.arange(6), use_reentrant=False)
        found = torch.autograd.grad(value, a)
        expected = torch.autograd.grad(compute(plain, a, b, torch.arange(6)), a)
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(inside.state_dict(), plain.state_dict())


def test_a_loss_without_state_can_be_checkpointed():
    a, b = (torch.randn(6, WIDTH, requires_grad=True) for _ in range(2))
    checkpoint(NTXentLoss(), a, b, use_reentrant=False).backward()
    expected = torch.autograd.grad(NTXentLoss()(a, b), (a, b))
    torch.testing.assert_close((a.grad, b.grad), expected)
