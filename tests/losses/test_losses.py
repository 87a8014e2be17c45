"""Every loss against explicit loops over its anchors and their negatives, in float64."""

import math

import pytest
import torch
from helpers.loop_losses import (
    DISTINCT,
    GLOBAL,
    IN_BATCH,
    NUM_CAPTIONS,
    NUM_SAMPLES,
    PAIRS,
    POSITIVE_IN_NORMALIZER,
    TWICE,
    GlobalByLoops,
    batches,
    evaluate,
    features,
    gradient_error,
    in_batch_by_loops,
    make,
    make_any,
    make_captioned,
    make_global,
    make_in_batch,
    make_loss,
    make_two_way,
    pairs,
    siglip_by_loops,
    tensors,
)
from torch.nn.functional import cross_entropy, normalize

from sogclr import (
    ClipLoss,
    DecoupledClipLoss,
    DecoupledContrastiveLoss,
    GlobalClipLoss,
    GlobalContrastiveLoss,
    NTXentLoss,
    SigLipLoss,
)


@batches
@make_in_batch
def test_in_batch_losses_are_their_loops(kind, index):
    pair = features()
    value, gradient = evaluate(kind(0.2, scale="temperature"), pair, torch.tensor(index))
    expected = in_batch_by_loops(kind, pair, 0.2, index)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient, torch.stack(torch.autograd.grad(expected, pair)))


@make_global
def test_global_losses_are_their_loops(kind):
    # Old and new samples mix, and some occur twice in a batch: one visit, their mean.
    loss, by_loops = make(kind, temperature=0.2, gamma_min=0.3), GlobalByLoops(kind, 0.2, 0.3)
    for step, index in enumerate([DISTINCT, TWICE, [1, 2, 3, 4, 5], TWICE, [1, 1, 1, 1, 2]]):
        pair = features(seed=step)
        value, gradient = evaluate(loss, pair, torch.tensor(index))
        expected, expected_gradient = by_loops(pair, index)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(gradient, expected_gradient)
    by_loops.assert_same_tables(loss)


@pairs
def test_global_loss_of_captions_and_groups_is_its_loop(ids):
    # An image that comes with two captions counts one visit, their mean; each caption its own.
    kind = GlobalClipLoss
    loss, by_loops = make_captioned(), GlobalByLoops(kind, 0.2, 0.3)
    for step, names in enumerate([PAIRS["captions"], ids, PAIRS["an image twice"], ids]):
        pair = features(len(names[0]), seed=step)
        value, gradient = evaluate(loss, pair, *tensors(names))
        expected, expected_gradient = by_loops(pair, *names)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(gradient, expected_gradient)
    by_loops.assert_same_tables(loss)


@pairs
@pytest.mark.parametrize("kind", [ClipLoss, DecoupledClipLoss])
def test_in_batch_losses_of_captions_and_groups_are_their_loops(kind, ids):
    pair = features(len(ids[0]))
    value, gradient = evaluate(kind(0.2, scale="temperature"), pair, *tensors(ids))
    expected = in_batch_by_loops(kind, pair, 0.2, *ids)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient, torch.stack(torch.autograd.grad(expected, pair)))


@pairs
def test_siglip_is_its_loop(ids):
    # A bias at which positives and negatives weigh alike, unlike the published start.
    pair, loss = features(len(ids[0])), SigLipLoss(0.5, bias=-1.0).double()
    inputs = [*pair, *loss.parameters()]
    scale = loss.log_scale.exp()
    index, index_b, group = tensors(ids)
    value, expected = (
        loss(*pair, index, index_b=index_b, group=group),
        siglip_by_loops(pair, scale, loss.bias, *ids),
    )
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(
        torch.autograd.grad(value, inputs), torch.autograd.grad(expected, inputs)
    )


def test_siglip_starts_as_published():
    pair = features()
    torch.testing.assert_close(
        SigLipLoss().double()(*pair),
        siglip_by_loops(pair, 10.0, -10.0, range(5)),
        rtol=1e-6,
        atol=0,
    )


@make_two_way
def test_ids_of_the_other_side_are_the_same_by_default(kind):
    one, other, index = make(kind), make(kind), torch.tensor(TWICE)
    for step in range(3):
        pair = features(seed=step)
        value, gradient = evaluate(one, pair, index)
        # Groups add to what the ids say, and take nothing from it.
        told = {"index_b": index.int(), "group": torch.arange(5)}
        told_value, told_gradient = evaluate(other, pair, index, **told)
        assert torch.equal(told_value, value)
        assert torch.equal(told_gradient, gradient)
    torch.testing.assert_close(dict(other.state_dict()), dict(one.state_dict()), rtol=0, atol=0)


def test_one_number_of_samples_is_that_of_both_sides():
    one, other = make(GlobalClipLoss), make_captioned()
    assert one.num_samples == (NUM_SAMPLES, NUM_SAMPLES)
    assert [len(one.normalizer_a.visits), len(one.normalizer_b.visits)] == [NUM_SAMPLES + 1] * 2
    assert other.num_samples == (NUM_SAMPLES, NUM_CAPTIONS)
    assert len(other.normalizer_a.visits) == NUM_SAMPLES + 1
    assert len(other.normalizer_b.visits) == NUM_CAPTIONS + 1


@pytest.mark.parametrize("frozen", [0, 1], ids=["a", "b"])
@make_two_way
def test_a_frozen_side_leaves_the_gradient_of_the_other(kind, frozen):
    one, other, index = make(kind), make(kind), torch.tensor(TWICE)
    for step in range(3):
        pair = features(seed=step)
        value, gradient = evaluate(one, pair, index)
        half = [side.detach().requires_grad_(i != frozen) for i, side in enumerate(pair)]
        half_value = other(*half, index)
        [half_gradient] = torch.autograd.grad(half_value, half[1 - frozen])
        torch.testing.assert_close(half_value.detach(), value)
        torch.testing.assert_close(half_gradient, gradient[1 - frozen])


def test_a_normalizer_for_every_view_is_its_loop():
    loss = make(GlobalContrastiveLoss, temperature=0.2, gamma_min=0.3, num_stored_views=3)
    by_loops = GlobalByLoops(GlobalContrastiveLoss, 0.2, 0.3)
    generator = torch.Generator().manual_seed(0)
    for step, index in enumerate([DISTINCT, TWICE, DISTINCT, TWICE]):
        pair, views = features(seed=step), torch.randint(3, (2, 5), generator=generator)
        value, gradient = evaluate(loss, pair, torch.tensor(index), views=tuple(views))
        expected, expected_gradient = by_loops(pair, index, views=views.tolist())
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(gradient, expected_gradient)


@make_global
def test_value_is_read_off_the_table(kind):
    loss, index = make(kind, temperature=0.2, gamma_min=0.3), torch.tensor(DISTINCT)
    for step in range(3):
        pair = features(seed=step)
        value, _ = evaluate(loss, pair, index)
    tables = [module for module in loss.modules() if hasattr(module, "log_u")]
    log_u = torch.stack([table.log_u[index] for table in tables]).mean()
    positive = torch.cosine_similarity(*pair).mean()
    torch.testing.assert_close(value, (-positive + 0.2 * log_u).detach())


@make_global
def test_eval_looks_up(kind):
    loss, index = make(kind, temperature=0.2), torch.tensor(DISTINCT)
    evaluate(loss, features(), index)
    before = {name: tensor.clone() for name, tensor in loss.state_dict().items()}
    pair = features(seed=1)
    value, _ = evaluate(loss.eval(), pair, index)
    positive = torch.cosine_similarity(*pair).mean().detach()
    log_u = [tensor[index, 0] for name, tensor in before.items() if name.endswith("table")]
    torch.testing.assert_close(value, -positive + 0.2 * torch.stack(log_u).mean())
    for name, tensor in loss.state_dict().items():
        assert torch.equal(tensor, before[name])


@make_global
def test_eval_stays_finite_when_the_encoder_has_moved_far(kind):
    # ĝ/u, at most 1/gamma in training, is here e^500: beyond float32, but not the value's matter.
    loss, index = make(kind, temperature=0.002, dtype=torch.float32), torch.arange(4)
    apart, close = [torch.eye(4)] * 2, [1 + 0.01 * torch.eye(4)] * 2
    loss(*apart, index)
    positive = torch.cosine_similarity(*close).mean().item()
    assert loss.eval()(*close, index).item() == pytest.approx(-positive, abs=1e-6)  # log u is 0


def test_ntxent_as_published():
    pair = features()
    z = normalize(torch.cat(pair), dim=-1)
    logits = (z @ z.T / 0.2).fill_diagonal_(-math.inf)
    expected = cross_entropy(logits, torch.arange(10).roll(5))
    torch.testing.assert_close(NTXentLoss(0.2, scale="cross-entropy")(*pair), expected)


def test_clip_as_published():
    pair = features()
    a, b = (normalize(side, dim=-1) for side in pair)
    logits, target = a @ b.T / 0.2, torch.arange(5)
    expected = (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(ClipLoss(0.2, scale="cross-entropy")(*pair), expected)


@make_loss
def test_scales_differ_by_tau_and_the_count(kind):
    B, tau, index = 5, 0.2, torch.tensor(DISTINCT)
    # The in-batch losses sum over candidates; a moving average knows no number of them.
    count = {
        NTXentLoss: 2 * B - 1,
        DecoupledContrastiveLoss: 2 * (B - 1),
        ClipLoss: B,
        DecoupledClipLoss: B - 1,
    }.get(kind, 1)
    one, other = make(kind, temperature=tau), make(kind, temperature=tau, scale="cross-entropy")
    for step in range(3):
        value, gradient = evaluate(one, features(seed=step), index)
        scaled, scaled_gradient = evaluate(other, features(seed=step), index)
        torch.testing.assert_close(value, tau * (scaled - math.log(count)))
        torch.testing.assert_close(gradient, tau * scaled_gradient)


@batches
@make_any
def test_order_of_the_batch_does_not_matter(kind, index):
    one, other = make(kind), make(kind)
    order, index = torch.tensor([3, 0, 4, 1, 2]), torch.tensor(index)
    for step in range(3):
        pair = features(seed=step)
        value, gradient = evaluate(one, pair, index)
        shuffled = [side.detach()[order].requires_grad_() for side in pair]
        shuffled_value, shuffled_gradient = evaluate(other, shuffled, index[order])
        torch.testing.assert_close(shuffled_value, value)
        torch.testing.assert_close(shuffled_gradient, gradient[:, order])
    torch.testing.assert_close(dict(other.state_dict()), dict(one.state_dict()))


@pytest.mark.parametrize("kind", [*IN_BATCH, SigLipLoss])
def test_samples_are_distinct_by_default(kind):
    pair = features()
    assert torch.equal(kind()(*pair), kind()(*pair, torch.tensor(DISTINCT)))


@pairs
def test_order_of_captions_and_groups_does_not_matter(ids):
    one, other = make_captioned(), make_captioned()
    order = torch.arange(len(ids[0])).roll(2)
    for step in range(3):
        pair, names = features(len(order), seed=step), tensors(ids)
        value, gradient = evaluate(one, pair, *names)
        shuffled = [side.detach()[order].requires_grad_() for side in pair]
        names = [name if name is None else name[order] for name in names]
        shuffled_value, shuffled_gradient = evaluate(other, shuffled, *names)
        torch.testing.assert_close(shuffled_value, value)
        torch.testing.assert_close(shuffled_gradient, gradient[:, order])
    torch.testing.assert_close(dict(other.state_dict()), dict(one.state_dict()))


@pytest.mark.parametrize("index", [[3], [3, 3, 3]], ids=["batch of one", "one sample"])
@pytest.mark.parametrize("scale", ["temperature", "cross-entropy"])
@pytest.mark.parametrize("kind", [*GLOBAL, DecoupledContrastiveLoss, DecoupledClipLoss])
def test_without_negatives_only_alignment_is_left(kind, scale, index):
    loss = make(kind, temperature=0.2, scale=scale)
    if kind in GLOBAL:  # the sample has a normalizer worth keeping
        evaluate(loss, features(), torch.tensor([*DISTINCT[:4], 3]))
    before = {name: tensor.clone() for name, tensor in loss.state_dict().items()}
    pair = features(len(index), seed=1)
    with torch.autograd.set_detect_anomaly(True):  # not even a NaN that a mask would hide
        value, gradient = evaluate(loss, pair, torch.tensor(index))
    expected = -torch.cosine_similarity(*pair).mean() / (1 if scale == "temperature" else 0.2)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient, torch.stack(torch.autograd.grad(expected, pair)))
    for name, tensor in loss.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("kind", sorted(POSITIVE_IN_NORMALIZER, key=lambda kind: kind.__name__))
def test_positive_alone_in_the_normalizer_is_certain(kind):
    value, gradient = evaluate(kind(scale="temperature"), features(1), torch.tensor([3]))
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@make_any
def test_low_precision_features_are_computed_in_float32(kind, dtype, autocast):
    loss, exact = make(kind, dtype=torch.float32) if kind in GLOBAL else make(kind), make(kind)
    index = torch.tensor(DISTINCT)
    for step in range(3):
        rounded = features(seed=step, width=64, dtype=dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            value = loss(*rounded, index)
        assert value.dtype == torch.float32
        # The gradient by low-precision features is itself rounded to their dtype.
        gradient = torch.stack(torch.autograd.grad(value, rounded))
        pair = [side.detach().double().requires_grad_() for side in rounded]
        expected, expected_gradient = evaluate(exact, pair, index)
        assert value.item() == pytest.approx(expected.item(), abs=1e-6)
        assert gradient_error(gradient, expected_gradient, pair) < torch.finfo(dtype).eps / 2 + 1e-5


@make_any
def test_float64_stays_float64(kind):
    assert make(kind)(*features(), torch.tensor(DISTINCT)).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tau", [0.002, 0.01, 0.05, 0.1, 0.5, 1.0])
@make_loss
def test_every_temperature_in_float32(kind, tau, dtype):
    # A similarity is known to about 1e-7, hence s/tau to 1e-7/tau, hence exp(s/tau) relatively.
    # bfloat16 features get gradients rounded to bfloat16 on top.
    tolerance = 1e-6 + 5e-7 / tau + (2**-8 if dtype == torch.bfloat16 else 0)
    settings = {"temperature": tau, "gamma_min": 0.2} if kind in GLOBAL else {"temperature": tau}
    loss = make(kind, **settings, **({"dtype": torch.float32} if kind in GLOBAL else {}))
    exact = make(kind, **settings)
    for step, index in enumerate([DISTINCT, TWICE, [0, 2, 4, 5, 6], DISTINCT, TWICE]):
        pair = features(seed=step, dtype=dtype)
        value, gradient = evaluate(loss, pair, torch.tensor(index))
        pair = [side.detach().double().requires_grad_() for side in pair]
        expected, expected_gradient = evaluate(exact, pair, torch.tensor(index))
        assert value.item() == pytest.approx(expected.item(), abs=1e-6, rel=1e-6)
        assert gradient.isfinite().all()
        assert gradient_error(gradient, expected_gradient, pair) < tolerance


@pytest.mark.parametrize("temperature", [0.0, -0.1, math.nan, math.inf])
@make_any
def test_temperature_is_positive(kind, temperature):
    with pytest.raises(ValueError, match="temperature must be a positive number"):
        make(kind, temperature=temperature)


@make_loss
def test_unknown_scale(kind):
    with pytest.raises(ValueError, match="cross-entropy"):
        make(kind, scale="sum")


@pytest.mark.parametrize(
    ("first", "second", "ids"),
    [((4, 3), (5, 3), 4), ((4, 3), (4, 2), 4), ((4, 3), (4, 3), 5), ((2, 4, 3), (2, 4, 3), 2)],
)
@make_any
def test_shapes_match(kind, first, second, ids):
    loss = make(kind)
    with pytest.raises(ValueError, match="expected features"):
        loss(torch.ones(first), torch.ones(second), torch.arange(ids))
    assert all(not table.visits.any() for table in loss.modules() if hasattr(table, "visits"))


@pytest.mark.parametrize("wrong", ["index_b", "group"])
@make_two_way
def test_ids_of_pairs_match_the_batch(kind, wrong):
    loss = make(kind)
    with pytest.raises(ValueError, match="expected features"):
        loss(*features(), torch.arange(5), **{wrong: torch.arange(4)})
    assert all(not table.visits.any() for table in loss.modules() if hasattr(table, "visits"))


def test_views_go_with_num_views():
    pair, index = features(), torch.tensor(DISTINCT)
    views = (torch.zeros(5, dtype=torch.int64),) * 2
    with pytest.raises(ValueError, match="num_stored_views"):
        make(GlobalContrastiveLoss)(*pair, index, views=views)
    with pytest.raises(ValueError, match="num_stored_views"):
        make(GlobalContrastiveLoss, num_stored_views=2)(*pair, index)


@pytest.mark.parametrize("bad", [-1, 2])
@pytest.mark.parametrize("side", [0, 1])
def test_views_outside_raise(side, bad):
    # Row (sample, view) + 1 is another sample's: it would be a silent mistake.
    loss = make(GlobalContrastiveLoss, num_stored_views=2)
    views = torch.zeros(2, 5, dtype=torch.int64)
    views[side, 3] = bad
    with pytest.raises(IndexError, match=r"view -?\d is outside"):
        loss(*features(), torch.tensor(DISTINCT), views=tuple(views))
    assert not loss.normalizer.visits.any()


def test_views_outside_touch_no_row_on_an_accelerator(monkeypatch):
    # A compiling CPU takes the path of ids that are on a device already.
    monkeypatch.setattr("sogclr.losses.torch_versions.is_compiling", lambda: True)
    loss = make(GlobalContrastiveLoss, num_stored_views=2)
    views = torch.tensor([[0, 1], [2, -1]])
    loss(*features(2), torch.tensor([3, 5]), views=tuple(views))
    assert loss.normalizer.visits[:-1].nonzero().flatten().tolist() == [6, 11]
    with pytest.raises(IndexError, match="2 sample ids"):
        loss.raise_for_invalid_ids()
    loss.raise_for_invalid_ids()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_ids_of_any_integer_type_with_views(dtype):
    loss = GlobalContrastiveLoss(200, num_stored_views=3, scale="temperature")
    index = torch.tensor([90, 150], dtype=dtype)  # times 3 is beyond uint8
    loss(*features(2), index, views=(torch.tensor([0, 2]), torch.tensor([1, 0])))
    assert loss.normalizer.visits.nonzero().flatten().tolist() == [270, 271, 450, 452]


def test_ids_are_integers_with_views():
    loss = GlobalContrastiveLoss(5, num_stored_views=2, scale="temperature")
    views = (torch.zeros(2, dtype=torch.int64), torch.ones(2, dtype=torch.int64))
    with pytest.raises(TypeError, match="must be integers"):
        loss(*features(2), torch.tensor([True, False]), views=views)


def test_views_of_another_length_are_refused():
    loss = GlobalContrastiveLoss(6, num_stored_views=2, scale="temperature")
    short = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match="do not match ids"):
        loss(torch.randn(4, 8), torch.randn(4, 8), torch.arange(4), views=(short, short))


@pytest.mark.parametrize("kind", [GlobalContrastiveLoss, GlobalClipLoss])
@pytest.mark.parametrize("bad", [0, -1, math.inf, math.nan])
def test_candidates_out_of_range(kind, bad):
    with pytest.raises(ValueError, match="effective_negatives must be above 0"):
        kind(4, effective_negatives=bad, scale="temperature")


@pytest.mark.parametrize("kind", [GlobalContrastiveLoss, GlobalClipLoss])
def test_a_pair_that_has_won_is_left_alone(kind):
    """Among few candidates; among all it goes on being pushed."""
    far = torch.eye(4)
    gradients = []
    for effective_negatives in (None, 3):
        a = far.clone().requires_grad_()
        loss = kind(
            4, temperature=0.05, effective_negatives=effective_negatives, scale="temperature"
        )
        loss(a, far + 0.1 * torch.ones(4, 4), torch.arange(4)).backward()
        gradients.append(a.grad.norm())
    assert gradients[1] < 1e-3 * gradients[0]
