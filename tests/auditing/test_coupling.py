"""Coupling by batch statistics is measured, and nothing else is taken for it."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

import sogclr
from sogclr.auditing import measure
from sogclr.auditing.coupling import Coupling, compare_batches
from sogclr.training import build_images

SAMPLES, VIEWS, TAU = 640, 4, 0.2


def network(norm: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Linear(12, 64), norm(64), nn.ReLU(), nn.Linear(64, 64), norm(64), nn.ReLU()
    return nn.Sequential(*layers, nn.Linear(64, 16)).train()


def grouped(width: int) -> nn.Module:
    return nn.GroupNorm(4, width)


def embed(net: nn.Module, size: int, visits: int) -> tuple[Tensor, Tensor]:
    """Embed views of images in random batches: `(1, n, V, d)` and the batches `(n, visits)`."""
    draw = torch.Generator().manual_seed(1)
    centre = torch.randn(SAMPLES, 12, generator=draw) + 1
    features = torch.empty(1, SAMPLES, 2 * visits, 16)
    batches = torch.empty(SAMPLES, visits, dtype=torch.int64)
    for visit in range(visits):
        for k, rows in enumerate(torch.randperm(SAMPLES, generator=draw).split(size)):
            noise = 0.3 * torch.randn(2, len(rows), 12, generator=draw)
            with torch.no_grad():
                z = normalize(net((centre[rows] + noise).flatten(0, 1)), dim=1).unflatten(
                    0, (2, -1)
                )
            features[0, rows, 2 * visit : 2 * visit + 2] = z.transpose(0, 1)
            batches[rows, visit] = visit * 1000 + k
    return features, batches


@pytest.mark.parametrize("visits", [1, 2])
@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm, grouped])
def test_only_batch_statistics_couple_the_rows_of_a_batch(norm, visits) -> None:
    features, batches = embed(network(norm), 16, visits)
    found = compare_batches(features, batches, torch.arange(SAMPLES), [TAU])
    assert found.batch == 16
    assert found.uncertainty < 0.05
    assert found.matters == (norm is nn.BatchNorm1d)
    if norm is not nn.BatchNorm1d:
        assert found.ratio == pytest.approx(1, abs=max(0.02, 3 * found.uncertainty))


def test_larger_batches_are_coupled_less() -> None:
    ratios = []
    for size in (8, 32, 128):
        features, batches = embed(network(nn.BatchNorm1d), size, 2)
        ratios.append(compare_batches(features, batches, torch.arange(SAMPLES), [TAU]).ratio)
    assert ratios == sorted(ratios)
    assert ratios[0] < 0.9 < ratios[2]


def test_the_ratio_by_explicit_loops() -> None:
    """Pairs, with temperatures of their own, and samples that share a text."""
    n, draw = 12, torch.Generator().manual_seed(2)
    features = normalize(torch.randn(2, n, 2, 5, generator=draw).double(), dim=-1)
    orders = [torch.randperm(n, generator=draw) for _ in range(2)]
    batches = torch.stack([10 * visit + order // 4 for visit, order in enumerate(orders)], dim=1)
    group = torch.arange(n) // 2 * 2
    taus = [0.5, 0.3 + 0.05 * torch.arange(n, dtype=torch.float64)]
    means = []
    for number in batches.unique():
        samples, visits = (batches == number).nonzero().unbind(1)
        visit, ratios = int(visits[0]), []
        for side in (0, 1):
            for i in samples.tolist():
                tau = 0.5 if side == 0 else float(taus[1][i])

                def g(rows, at, i=i, side=side, tau=tau, visit=visit):
                    anchor = features[side, i, visit]
                    kept = [j for j in rows if group[j] != group[i]]
                    terms = [(anchor @ features[1 - side, j, at] / tau).exp() for j in kept]
                    return sum(terms) / len(terms)

                ratios.append(g(samples.tolist(), visit) / g(range(n), 1 - visit))
        means.append(torch.stack(ratios).mean())
    found = compare_batches(features, batches, group, taus)
    assert found.ratio == pytest.approx(float(torch.stack(means).mean()), rel=1e-9)
    error = float(torch.stack(means).std()) / len(means) ** 0.5
    assert found.uncertainty == pytest.approx(error, rel=1e-9)


def test_one_batch_has_no_others_to_compare_with() -> None:
    features, batches = embed(network(nn.LayerNorm), SAMPLES, 2)
    assert compare_batches(features, batches, torch.arange(SAMPLES), [TAU]) is None


@pytest.mark.parametrize(
    ("ratio", "uncertainty", "matters"),
    [(0.7, 0.02, True), (0.94, 0.01, True), (0.96, 0.001, False), (0.9, 0.06, False)],
)
def test_neither_little_nor_noise_is_warned_of(ratio, uncertainty, matters) -> None:
    assert Coupling(16, ratio, uncertainty).matters == matters


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_an_audit_says_what_to_do(norm, make_folder, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(measure, "VISITS", 300)
    layer, flat = (nn.BatchNorm2d, nn.BatchNorm1d)
    if norm == "group":
        layer, flat = grouped, nn.LayerNorm
        plain = lambda width, norm: nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 128))  # noqa: E731
        monkeypatch.setattr(build_images, "build_projector", plain)
    torch.manual_seed(0)
    own = nn.Sequential(
        nn.Conv2d(3, 32, 3), layer(32), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(128, 64), flat(64),
    )  # fmt: skip
    photos = make_folder(per_class=32)
    found = sogclr.audit(own, photos, batch_size=8, temperature=0.3, out=tmp_path, device="cpu")
    shown = " ".join(capsys.readouterr().out.split())
    assert found.coupling.batch == 8
    assert found.coupling.matters == (norm == "batch")
    assert ("since batch statistics couple its rows" in found.summary) == (norm == "batch")
    assert f"is {found.coupling.ratio:.3f} ±" in shown
