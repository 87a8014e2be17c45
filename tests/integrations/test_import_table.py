"""Tables of LibAUC and FastCLIP: after the import our loss has the value that their formula has."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity, normalize

import sogclr
from sogclr import GlobalClipLoss, GlobalContrastiveLoss, IndividualTemperature, LearnedTemperature
from sogclr.losses.normalizer_scalar import ScalarNormalizer

N, BATCH, TAU, GAMMA = 8, 5, 0.2, 0.3
INDEX = torch.tensor([4, 0, 2, 7, 5])
SETTINGS = {"gamma_min": GAMMA, "dtype": torch.float64}
EXACT = {"rtol": 1e-9, "atol": 1e-9}


def features(seed=0):
    pair = torch.randn(2, N, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    pair[1] += pair[0]
    return normalize(pair, dim=2)


def drawn(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def two_view_state():
    """As LibAUC stores it: `(N, 1)`, and 0 for sample 2, which has not been visited."""
    u = (8 * drawn(N, 1)).exp()
    u[2] = 0
    return {"u": u, "tau": TAU}


def pair_state(library="libauc"):
    names = ("u1", "u2", "b1", "b2") if library == "libauc" else ("u_im", "u_tt", "", "")
    state = {name: drawn(N, 1, seed=len(name) + i) for i, name in enumerate(names) if name}
    for name in names[:2]:
        state[name][2] = 0
    if library == "libauc":
        return {**state, "tau": TAU}
    weights = {"module.logit_scale": torch.tensor(-math.log(TAU))}
    return {"epoch": 3, "name": "run", "state_dict": weights, "optimizer": {"state": {}}, **state}


def two_view_value(u, a, b):
    """The estimate of F / tau after a visit of INDEX, as GCLoss_v1 updates u; and that u."""
    u, values = u.clone(), []
    for i in INDEX:
        estimates = []
        for own, other in ((a, b), (b, a)):
            negatives = [own[i] @ side[j] for j in INDEX if j != i for side in (own, other)]
            g = sum(math.exp(s / TAU) for s in negatives) / len(negatives)
            estimates.append(g if u[i] == 0 else (1 - GAMMA) * u[i] + GAMMA * g)
        values.append(math.log(sum(estimates) / 2) - a[i] @ b[i] / TAU)
        u[i] = sum(estimates) / 2
    return sum(values) / len(values), u


def pair_value(state, a, b):
    """The same for pairs: u averages exp((s - positive) / tau), less a shift b that only grows."""
    values = []
    for u, shift, own, other in (("u1", "b1", a, b), ("u2", "b2", b, a)):
        for i in INDEX:
            scaled = [(own[i] @ other[j] - own[i] @ other[i]) / TAU for j in INDEX]
            old = state.get(shift, torch.zeros(N, 1, dtype=torch.float64))[i]
            new = max(old, *scaled)
            g = sum(math.exp(s - new) for s, j in zip(scaled, INDEX, strict=True) if j != i)
            g /= BATCH - 1
            seen = state[u][i] > 0
            u_new = (1 - GAMMA) * state[u][i] * math.exp(old - new) + GAMMA * g if seen else g
            values.append(math.log(u_new) + new)
    return sum(values) / len(values)


def test_two_views_have_the_value_of_libaucs_formula():
    a, b = features()
    state = two_view_state()
    loss = GlobalContrastiveLoss(N, temperature=TAU, **SETTINGS)
    assert sogclr.import_table(loss, state, visits=50) == N - 1
    expected, u = two_view_value(state["u"], a, b)
    value = loss(a[INDEX], b[INDEX], INDEX)
    torch.testing.assert_close(value, expected.squeeze(), **EXACT)
    torch.testing.assert_close(loss.normalizer.log_u[:N], u.log().squeeze(), **EXACT)
    assert loss.normalizer.visits.tolist() == [51, 50, 1, 50, 51, 51, 50, 51, 0]


@pytest.mark.parametrize("library", ["libauc", "fastclip"])
def test_pairs_have_the_value_of_the_formula(library):
    a, b = features()
    state = pair_state(library)
    loss = GlobalClipLoss(N, temperature=TAU, **SETTINGS)
    positive = cosine_similarity(a, b)
    assert sogclr.import_table(loss, state, positive=positive, visits=50) == 2 * (N - 1)
    as_libauc = {name.replace("_im", "1").replace("_tt", "2"): u for name, u in state.items()}
    expected = pair_value(as_libauc, a, b)
    torch.testing.assert_close(loss(a[INDEX], b[INDEX], INDEX), expected.squeeze(), **EXACT)


def test_shifts_of_fastclip_v2_and_temperatures_of_single_samples():
    tau = TAU * (1 + drawn(N, 1, seed=9))
    state = {**pair_state("fastclip"), "tau_im": tau, "tau_tt": tau.flip(0)}
    state |= {"bound_im": 3 * drawn(N, 1, seed=5), "bound_tt": drawn(N, 1, seed=6)}
    temperature = IndividualTemperature(TAU, rho=1.0)
    loss = GlobalClipLoss(N, temperature=temperature, gamma_decay_visits=9, **SETTINGS)
    positive = cosine_similarity(*features())
    sogclr.import_table(loss, state, positive=positive)
    expected = (state["u_im"].log() + state["bound_im"]).squeeze() + positive / tau.squeeze()
    torch.testing.assert_close(loss.normalizer_a.log_u[:N], expected, **EXACT)
    seen = torch.arange(N) != 2
    torch.testing.assert_close(
        loss.temperature_b.tau[:N][seen].double(), tau.flip(0).squeeze()[seen]
    )
    assert loss.temperature_a.tau[2] == torch.tensor(TAU)  # not visited
    assert loss.temperature_a.velocity.count_nonzero() == 0  # Adam's there, momentum here
    assert loss.normalizer_a.visits.tolist() == [3, 3, 0, 3, 3, 3, 3, 3, 0]  # the epoch


def test_temperatures_of_isogclr_keep_their_velocity():
    state = {**two_view_state(), "learnable_tau": TAU * (1 + drawn(N, 1)), "grad_tau": drawn(N, 1)}
    loss = GlobalContrastiveLoss(N, temperature=IndividualTemperature(TAU, rho=0.3))
    sogclr.import_table(loss, state)
    seen = torch.arange(N) != 2
    for ours, theirs in (("tau", "learnable_tau"), ("velocity", "grad_tau")):
        actual = getattr(loss.temperature, ours)[:N].double()
        torch.testing.assert_close(actual[seen], state[theirs].squeeze()[seen])


@pytest.mark.parametrize("level", [False, True])
def test_what_was_stored_comes_back(level):
    """Our own u, written in LibAUC's layout."""
    a, b = features()
    old = GlobalContrastiveLoss(N, temperature=TAU, level=level, **SETTINGS)
    for seed in range(4):
        a, b = features(seed)
        old(a[INDEX], b[INDEX], INDEX)
    new = GlobalContrastiveLoss(N, temperature=TAU, level=level, **SETTINGS)
    assert sogclr.import_table(new, old.normalizer.log_u[:N, None].exp(), visits=4) == len(INDEX)
    torch.testing.assert_close(new.normalizer.log_u, old.normalizer.log_u, **EXACT)
    assert torch.equal(new.normalizer.visits, old.normalizer.visits)
    a, b = features(5)
    torch.testing.assert_close(
        new.eval()(a[INDEX], b[INDEX], INDEX), old.eval()(a[INDEX], b[INDEX], INDEX), **EXACT
    )


def test_ids_say_the_row_of_each_sample():
    u = torch.arange(1.0, 5.0)
    loss = GlobalContrastiveLoss(10)
    loss(torch.randn(9, 4), torch.randn(9, 4), torch.arange(9))  # is replaced
    assert sogclr.import_table(loss, u, ids=torch.tensor([9, -1, 0, 3])) == 3
    rows = {9: 1.0, 0: 3.0, 3: 4.0}
    for row, log_u in enumerate(loss.normalizer.log_u[:10].tolist()):
        assert log_u == pytest.approx(math.log(rows[row]) if row in rows else -math.inf)


def test_sides_that_are_numbered_differently():
    state = pair_state()
    ids = torch.arange(N), 2 * torch.arange(N)
    loss = GlobalClipLoss((N, 2 * N), temperature=TAU, **SETTINGS)
    positive = drawn(N, seed=3), drawn(N, seed=4)
    sogclr.import_table(loss, state, ids=ids, positive=positive)
    expected = (state["u2"].log() + state["b2"]).squeeze() + positive[1] / TAU
    torch.testing.assert_close(loss.normalizer_b.log_u[: 2 * N : 2], expected, **EXACT)
    assert loss.normalizer_b.visits[1::2].sum() == 0


class StandIn(nn.Module):
    """GCLoss holds GCLoss_v1 or GCLoss_v2, whose u is an attribute and no buffer."""

    def __init__(self, state):
        super().__init__()
        for name, value in state.items():
            setattr(self, name, value)


@pytest.mark.parametrize("kind", ["path", "str", "safetensors", "loss", "wrapped", "tensor"])
def test_all_sources_give_the_same(kind, tmp_path):
    state = two_view_state()
    source = {"tensor": state["u"], "loss": StandIn(state)}.get(kind)
    if kind == "wrapped":
        source = StandIn({"loss_fn": StandIn(state)})
    if kind in ("path", "str"):
        torch.save({"model": {"weight": torch.ones(2)}, **state}, tmp_path / "u.pt")
        source = tmp_path / "u.pt" if kind == "path" else str(tmp_path / "u.pt")
    if kind == "safetensors":
        from safetensors.torch import save_file

        save_file({"u": state["u"]}, tmp_path / "u.safetensors")
        source = tmp_path / "u.safetensors"
    losses = [GlobalContrastiveLoss(N, temperature=TAU) for _ in range(2)]
    for loss, given in zip(losses, (state, source), strict=True):
        sogclr.import_table(loss, given)
    assert torch.equal(losses[0].normalizer.table, losses[1].normalizer.table)


def damaged(name, index, value):
    state = two_view_state() if name == "u" else pair_state()
    state[name][index] = value
    return state


TWO, PAIRS = GlobalContrastiveLoss, GlobalClipLoss
POSITIVE = {"positive": torch.zeros(N)}
REFUSED = {
    "negative": (TWO, damaged("u", 3, -1.0), {}, r"u: is negative for 1 of 8 .* -1 at index 3"),
    "NaN": (TWO, damaged("u", 3, math.nan), {}, r"u: is not finite .* nan at index 3"),
    "overflow": (PAIRS, damaged("u2", 1, math.inf), POSITIVE, r"u2: is not finite .* inf at ind"),
    "shift": (PAIRS, damaged("b1", 1, math.inf), POSITIVE, r"b1: is not finite"),
    "no visit": (TWO, {"u": torch.zeros(N, 1)}, {}, r"u: is 0 for all 8 samples"),
    "shape": (TWO, {"u": torch.ones(N, 2)}, {}, r"u: must have the shape .* got \(8, 2\)"),
    "scalar": (TWO, torch.ones(()), {}, r"u: must have the shape .* got \(\)"),
    "no samples": (TWO, torch.ones(0, 1), {}, r"u: must have the shape .* got \(0, 1\)"),
    "dtype": (TWO, torch.ones(N, dtype=torch.int64), {}, r"u: must be a tensor of floats"),
    "a list": (TWO, {"u": [1.0] * N}, {}, r"u: must be a tensor of floats, got list"),
    "number": (TWO, torch.ones(N + 1), {}, r"u: has 9 samples, but the loss has 8: .*=9, or pass"),
    "names": (TWO, {"table": torch.ones(N)}, {}, r"has no u, .*; it has table"),
    "state_dict": (TWO, {}, {}, r"it has nothing\. LibAUC's state_dict\(\) does not hold u"),
    "kind": (TWO, 3, {}, r"source: must be a path, .* got int"),
    "no shift": (PAIRS, {"u1": torch.ones(N), "u2": torch.ones(N)}, POSITIVE, "b1: is missing"),
    "one side": (PAIRS, {"u_im": torch.ones(N)}, POSITIVE, r"u_tt: is missing"),
    "no bound": (
        PAIRS,
        {**pair_state("fastclip"), "tau_im": torch.ones(N), "tau_tt": torch.ones(N)},
        POSITIVE,
        r"bound_im: is missing",
    ),
    "lengths": (PAIRS, pair_state() | {"b2": torch.ones(7)}, POSITIVE, r"b2: has 7 samples.* 8"),
    "for pairs": (TWO, pair_state(), POSITIVE, r"u is that of pairs: pass a GlobalClipLoss, not"),
    "two views": (PAIRS, two_view_state(), {}, r"that of two views: pass a GlobalContrastiveLoss"),
    "positive": (PAIRS, pair_state(), {}, r"positive: u of pairs is relative to the similarity"),
    "no pairs": (TWO, two_view_state(), POSITIVE, r"positive: .* leave it out"),
    "cosine": (PAIRS, pair_state(), {"positive": torch.full((N,), 5.0)}, r"\[-1, 1\], got 5"),
    "similarities": (PAIRS, pair_state(), {"positive": torch.ones(3)}, r"8 similarities, got \(3"),
    "ids": (TWO, torch.ones(N), {"ids": torch.arange(N) + 1}, r"ids: 8 is outside \[0, 8\)"),
    "equal ids": (TWO, torch.ones(N), {"ids": torch.zeros(N).long()}, r"ids: 0 occurs more than"),
    "ids of floats": (TWO, torch.ones(N), {"ids": torch.ones(N)}, r"ids: must be .* 8 integers"),
    "no ids": (TWO, torch.ones(N), {"ids": torch.full((N,), -1)}, r"u: no visited sample"),
    "visits": (TWO, torch.ones(N), {"visits": 0}, r"visits: .* got 0"),
    "temperature": (TWO, {"u": torch.ones(N), "tau": 0.1}, {}, r"temperature of 0.1, .* has 0.2"),
    "one temperature": (
        TWO,
        {"u": torch.ones(N), "learnable_tau": torch.ones(N)},
        {},
        r"its own temperature: make the loss with temperature=IndividualTemperature",
    ),
}


@pytest.mark.parametrize(("kind", "source", "arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_one_line_and_changes_nothing(kind, source, arguments, message):
    loss = kind(N, temperature=TAU)
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    with pytest.raises(sogclr.UserError, match=message) as error:
        sogclr.import_table(loss, source, **arguments)
    assert "\n" not in str(error.value)
    for name, value in loss.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_losses_without_such_a_table():
    u = torch.ones(N)
    for loss, message in (
        (sogclr.NTXentLoss(), "pass a GlobalContrastiveLoss, not a NTXentLoss"),
        (GlobalContrastiveLoss(N, normalizer=ScalarNormalizer), "ScalarNormalizer, is no table"),
        (GlobalContrastiveLoss(N, num_stored_views=2), "one per sample"),
    ):
        with pytest.raises(sogclr.UserError, match=message):
            sogclr.import_table(loss, u)
    narrow = IndividualTemperature(TAU, rho=0.3, maximum=0.5)
    state = {"u": u, "learnable_tau": torch.ones(N)}
    with pytest.raises(sogclr.UserError, match=r"temperatures of the other run lie in \[1, 1\]"):
        sogclr.import_table(GlobalContrastiveLoss(N, temperature=narrow), state)


def test_a_learned_temperature_is_compared_where_it_stands():
    loss = GlobalClipLoss(N, temperature=LearnedTemperature(2 * TAU))
    with pytest.raises(sogclr.UserError, match=r"temperature of 0.2, but the loss has 0.4"):
        sogclr.import_table(loss, pair_state("fastclip"), **POSITIVE)
    loss = GlobalClipLoss(N, temperature=LearnedTemperature(TAU))
    assert sogclr.import_table(loss, pair_state("fastclip"), **POSITIVE) == 2 * (N - 1)


def test_a_cosine_of_visits_needs_their_number():
    loss = GlobalContrastiveLoss(N, gamma_decay_visits=9)
    with pytest.raises(sogclr.UserError, match=r"pass the number of epochs"):
        sogclr.import_table(loss, torch.ones(N))
    sogclr.import_table(loss, torch.ones(N), visits=4)
    assert loss.normalizer.visits[:N].tolist() == [4] * N
    loss = GlobalContrastiveLoss(N)
    sogclr.import_table(loss, {"u": torch.ones(N), "epoch": 4})
    assert loss.normalizer.visits[:N].tolist() == [1] * N


class Execute:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_in_a_file_is_executed(tmp_path):
    torch.save({"u": torch.ones(N), "loss": Execute(tmp_path / "executed")}, tmp_path / "u.pt")
    loss = GlobalContrastiveLoss(N)
    for name, message in (("u.pt", "holds objects, which are not executed"), ("none.pt", "exist")):
        with pytest.raises(sogclr.UserError, match=message):
            sogclr.import_table(loss, tmp_path / name)
    assert not (tmp_path / "executed").exists()
