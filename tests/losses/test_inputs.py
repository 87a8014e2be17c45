"""Batches that a loss cannot take: one clear error, before any state changes."""

import copy

import numpy as np
import pytest
import torch
from helpers.every_loss import COUNT, LOSSES, WIDTH, call, features

from sogclr import GlobalClipLoss, GlobalContrastiveLoss

every_loss = pytest.mark.parametrize("name", LOSSES)
UNSIGNED = [kind for kind in ("uint16", "uint32", "uint64") if hasattr(torch, kind)]  # torch 2.3


def assert_refused(name, error, message, a, b, index, **ids):
    loss = LOSSES[name]()
    before = copy.deepcopy(loss.state_dict())
    with pytest.raises(error, match=message):
        call(loss, a.requires_grad_(), b.requires_grad_(), index, **ids)
    torch.testing.assert_close(loss.state_dict(), before, rtol=0, atol=0, equal_nan=True)


@every_loss
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bool, torch.complex64])
def test_ids_that_are_no_integers(name, kind):
    index = torch.arange(COUNT).to(kind)
    assert_refused(name, TypeError, "s must be integers, got torch", *features(), index)


@every_loss
@pytest.mark.parametrize("convert", [list, tuple, np.asarray, lambda index: index.tolist()])
def test_ids_that_are_no_tensor(name, convert):
    index = convert(torch.arange(COUNT))
    assert_refused(name, TypeError, "must be a tensor of integers", *features(), index)


@every_loss
@pytest.mark.parametrize("shape", [(COUNT, 1), (1, COUNT), (COUNT - 1,), ()])
def test_ids_of_another_shape(name, shape):
    index = torch.zeros(shape, dtype=torch.int64)
    assert_refused(name, ValueError, r"expected features \(B, d\)", *features(), index)


@every_loss
@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "int32", *UNSIGNED])
def test_integers_of_any_kind_count_alike(name, kind):
    values = [
        call(LOSSES[name](), *features(), torch.arange(COUNT).to(dtype))
        for dtype in (torch.int64, getattr(torch, kind))
    ]
    assert torch.equal(*values)


@every_loss
def test_an_empty_batch(name):
    index = torch.arange(0)
    assert_refused(name, ValueError, "the batch is empty", *features(0), index)


@every_loss
@pytest.mark.parametrize("kind", [torch.complex64, torch.complex128])
def test_complex_features(name, kind):
    a, b = features()
    for sides in ((a.to(kind), b.to(kind)), (a.clone(), b.to(kind))):
        assert_refused(name, TypeError, "must be real", *sides, torch.arange(COUNT))


@every_loss
@pytest.mark.parametrize("shape", [(COUNT,), (COUNT, WIDTH, 1), (COUNT, WIDTH + 1)])
def test_features_of_another_shape(name, shape):
    a, _ = features()
    assert_refused(name, ValueError, "expected features", a, torch.ones(shape), torch.arange(COUNT))


@every_loss
@pytest.mark.parametrize("shape", [(), (0,), (COUNT, 1, WIDTH)])
@pytest.mark.parametrize("given", [True, False])
def test_features_of_another_shape_on_both_sides(name, shape, given):
    index = torch.arange(COUNT) if given or name in ("sogclr", "pairs", "memory", "moco") else None
    sides = torch.ones(shape), torch.ones(shape)
    assert_refused(name, ValueError, "expected features", *sides, index)


@pytest.mark.parametrize("option", ["group", "index_b"])
@pytest.mark.parametrize("name", ["pairs", "clip", "siglip", "dcl of pairs"])
def test_other_ids_of_pairs(name, option):
    index = torch.arange(COUNT)
    for wrong, error in (
        (index.float(), TypeError),
        (index.numpy(), TypeError),
        (index[:, None], ValueError),
    ):
        assert_refused(name, error, "must be|expected", *features(), index, **{option: wrong})


@pytest.mark.parametrize("option", ["views", "sample_key"])
def test_other_ids_of_views(option):
    loss = GlobalContrastiveLoss(9, num_stored_views=3)
    index = torch.arange(COUNT)
    good = {"views": (index % 3, index % 3), "sample_key": index}
    for wrong in (index.tolist(), index.numpy(), index.double()):
        given = {**good, option: (wrong, wrong) if option == "views" else wrong}
        with pytest.raises(TypeError, match="must be"):
            loss(*features(), index, **given)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("kind", [GlobalContrastiveLoss, GlobalClipLoss])
def test_a_table_of_low_precision(kind, dtype):
    with pytest.raises(ValueError, match="float32 or float64"):
        kind(9, dtype=dtype)


@pytest.mark.parametrize("visits", [float("nan"), float("inf"), 0, -1])
def test_a_course_of_gamma_that_never_ends(visits):
    with pytest.raises(ValueError, match="at least 1 and finite"):
        GlobalContrastiveLoss(9, gamma_decay_visits=visits)


@every_loss
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("convert", [list, np.asarray, str, lambda features: None])
def test_features_that_are_no_tensor(name, convert, side):
    sides = features()
    sides[side] = convert(sides[side])
    loss = LOSSES[name]()
    more = tuple(features()) if name == "moco" else ()
    with pytest.raises(TypeError, match=r"features must be tensors \(B, d\)"):
        loss(*sides, *more, torch.arange(COUNT))
