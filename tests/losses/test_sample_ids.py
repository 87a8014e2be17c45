"""Keys beside rows: keys tell who is no negative of whom, rows where normalizers are kept."""

import copy

import pytest
import torch
from helpers.loop_losses import (
    NUM_CAPTIONS,
    NUM_SAMPLES,
    TWO_WAY,
    GlobalByLoops,
    evaluate,
    features,
    make_captioned,
    tensors,
)
from torch.nn.functional import normalize

from sogclr import GlobalClipLoss, GlobalContrastiveLoss, IndividualTemperature

TAU = 0.2
SETTINGS = {
    "temperature": TAU, "gamma_min": 0.3, "dtype": torch.float64, "scale": "temperature",
}  # fmt: skip
BATCHES = [[4, 0, 2, 7, 5], [4, 0, 4, 7, 0], [1, 2, 3, 4, 5], [1, 1, 1, 1, 2]]
EXACT = {"rtol": 0, "atol": 0}
# Rows, and keys that differ in the lowest bit of 63, in the highest of 32 bits, or in the sign.
SHARED_ROWS = [
    ([4, 0, 4, 7, 0], [2**62, 1, 2**62 + 1, 3, 2**32 + 1]),
    ([1, 1, 1, 1, 2], [5, 5, -5, 6, 7]),
    ([4, 0, 2, 7, 5], [2**62 + 1, 1, 8, 3, 9]),
    # One key in two rows: no hash makes that, but it is the key that counts.
    ([4, 4, 0, 7, 5], [8, 9, 8, 3, 3]),
]

kinds = pytest.mark.parametrize("kind", [GlobalContrastiveLoss, GlobalClipLoss])


def named(index):
    """Other numbers for the same samples, of either sign."""
    return index * 0x2545F4914F6CDD1D


@kinds
@pytest.mark.parametrize("name", ["plain", "effective_negatives", "memory_size", "temperature"])
def test_keys_that_say_what_rows_say_change_nothing(kind, name):
    given = {
        "effective_negatives": 5.0,
        "memory_size": 6,
        "temperature": IndividualTemperature(rho=1.0),
    }
    settings = {name: given[name]} if name in given else {}
    one = kind(NUM_SAMPLES, **{**SETTINGS, **settings})
    other = copy.deepcopy(one)
    for step, batch in enumerate(BATCHES):
        pair, index = features(seed=step), torch.tensor(batch)
        value, gradient = evaluate(one, pair, index)
        told_value, told_gradient = evaluate(other, pair, index, sample_key=named(index))
        torch.testing.assert_close(told_value, value, **EXACT)
        torch.testing.assert_close(told_gradient, gradient, **EXACT)
    state = {key: each for key, each in one.state_dict().items() if key != "memory.ids"}
    told = {key: each for key, each in other.state_dict().items() if key != "memory.ids"}
    torch.testing.assert_close(told, state, **EXACT)


@kinds
def test_samples_in_one_row_are_negatives_and_have_one_normalizer(kind):
    loss, by_loops = kind(NUM_SAMPLES, **SETTINGS), GlobalByLoops(kind, TAU, 0.3)
    for step, (rows, keys) in enumerate(SHARED_ROWS):
        pair = features(seed=step)
        value, gradient = evaluate(loss, pair, *tensors([rows]), sample_key=torch.tensor(keys))
        expected, expected_gradient = by_loops(pair, rows, who=[keys])
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(gradient, expected_gradient)
    by_loops.assert_same_tables(loss)


def test_so_are_stored_views():
    loss = GlobalContrastiveLoss(NUM_SAMPLES, num_stored_views=3, **SETTINGS)
    by_loops = GlobalByLoops(GlobalContrastiveLoss, TAU, 0.3)
    for step, (rows, keys) in enumerate(SHARED_ROWS):
        pair, views = features(seed=step), torch.arange(step, step + 10).view(2, 5) % 3
        told = {"views": tuple(views), "sample_key": torch.tensor(keys)}
        value, gradient = evaluate(loss, pair, torch.tensor(rows), **told)
        expected, expected_gradient = by_loops(pair, rows, views=views.tolist(), who=[keys])
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(gradient, expected_gradient)


KEY, KEY_B, GROUP = [8, 9, 8, 10, 11], [1, 2, 3, 4, 2], [0, 1, 2, 3, 3]
ROWS, ROWS_B = [4, 4, 0, 7, 0], [9, 1, 9, 14, 2]
# What is told beside both sides' rows, and what pairs are then told apart by.
TOLD = {
    "both": ({"index_b": ROWS_B, "sample_key": KEY, "sample_key_b": KEY_B}, [KEY, KEY_B]),
    "both, and groups": (
        {"index_b": ROWS_B, "group": GROUP, "sample_key": KEY, "sample_key_b": KEY_B},
        [KEY, KEY_B, GROUP],
    ),
    "one for pairs": ({"sample_key": KEY}, [KEY]),
    "one for pairs, and groups": ({"group": GROUP, "sample_key": KEY}, [KEY, GROUP]),
    "two for pairs in one row": ({"sample_key": KEY, "sample_key_b": KEY_B}, [KEY, KEY_B]),
    "side a alone": ({"index_b": ROWS_B, "sample_key": KEY}, [KEY, ROWS_B]),
    "side b alone": ({"index_b": ROWS_B, "sample_key_b": KEY_B}, [ROWS, KEY_B]),
}


@pytest.mark.parametrize("name", TOLD)
def test_either_side_has_its_own(name):
    told, who = TOLD[name]
    loss, by_loops = make_captioned(), GlobalByLoops(GlobalClipLoss, TAU, 0.3)
    for step in range(3):
        pair = features(seed=step)
        tensored = {key: torch.tensor(each) for key, each in told.items()}
        value, gradient = evaluate(loss, pair, torch.tensor(ROWS), **tensored)
        expected, expected_gradient = by_loops(pair, ROWS, told.get("index_b"), who=who)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(gradient, expected_gradient)
    by_loops.assert_same_tables(loss)


@kinds
@pytest.mark.parametrize(("row", "key", "negative"), [(3, 11, True), (4, 10, False)])
def test_of_earlier_batches_keys_tell_as_well(kind, row, key, negative):
    """One sample at a time: the only negatives are of the batch before, in row 3 with key 10."""
    loss, earlier, now = (
        kind(9, memory_size=1, **SETTINGS),
        features(1, seed=1),
        features(1, seed=2),
    )
    loss(*earlier, torch.tensor([3]), sample_key=torch.tensor([10]))
    value = loss(*now, torch.tensor([row]), sample_key=torch.tensor([key]))
    (x, y), (a, b) = ([normalize(side[0], dim=0) for side in pair] for pair in (earlier, now))
    expected = -a @ b
    if negative and kind in TWO_WAY:
        expected = expected + (a @ y + b @ x) / 2
    elif negative:
        met = torch.stack([own @ other for own in (a, b) for other in (x, y)])
        expected = expected + TAU * (met / TAU).exp().mean().log()
    torch.testing.assert_close(value, expected)


@kinds
def test_rows_have_the_temperatures(kind):
    loss = kind(NUM_SAMPLES, temperature=IndividualTemperature(rho=1.0), scale="temperature")
    evaluate(loss, features(), torch.tensor([4, 4, 4, 1, 0]), sample_key=torch.arange(5) + 2**40)
    for _, temperature in loss.sides():
        moved = temperature.tau != temperature.initial
        assert moved.nonzero().flatten().tolist() == [0, 1, 4]


@kinds
def test_recent_rows_and_their_keys_are_saved(kind):
    loss, other = (kind(9, memory_size=4, **SETTINGS) for _ in range(2))
    keys = [torch.tensor([7, 8, 9]), torch.tensor([9, 5, 7])]
    loss(*features(3), torch.tensor([3, 4, 3]), sample_key=keys[0])
    other.load_state_dict(loss.state_dict())
    values = [
        each(*features(3, seed=1), torch.tensor([3, 1, 3]), sample_key=keys[1])
        for each in (loss, other)
    ]
    assert torch.equal(*values)


@pytest.mark.parametrize(
    "keys", [{"sample_key": torch.arange(5)}, {"sample_key_b": torch.arange(5)}], ids=str
)
def test_recent_rows_of_pairs_have_keys_or_not(keys):
    loss = GlobalClipLoss(NUM_SAMPLES, memory_size=4, scale="temperature")
    loss(*features(), torch.arange(5))
    with pytest.raises(ValueError, match="sample keys with every batch, or none"):
        loss(*features(), torch.arange(5), **keys)


BAD = {
    "floats": (torch.arange(5.0), TypeError, "keys must be integers, got torch.float32"),
    "too few": (torch.arange(4), ValueError, "expected features"),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", ["two views", "sample_key", "sample_key_b"])
def test_what_is_no_key_of_the_batch_is_refused(name, bad):
    key, error, told = BAD[bad]
    two_views = name == "two views"
    kind = GlobalContrastiveLoss if two_views else GlobalClipLoss
    loss = kind(NUM_CAPTIONS, scale="temperature")
    with pytest.raises(error, match=told):
        loss(*features(), torch.arange(5), **{"sample_key" if two_views else name: key})
    assert all(not table.visits.any() for table, _ in loss.sides())
