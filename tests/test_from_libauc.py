"""The tables of docs/from_libauc.md: LibAUC's formulas as explicit loops, beside ours.

What the page says of LibAUC itself is run where LibAUC is installed: `pip install libauc==2.0.1`.
"""

import io
import math
import re
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from timm.optim import create_optimizer_v2
from torch.nn.functional import normalize
from torchvision import datasets

from sogclr import GlobalClipLoss, GlobalContrastiveLoss, IndexedDataset, IndividualTemperature
from sogclr.losses.normalizer_table import step_size
from sogclr.planning.recipe import Recipe
from sogclr.training.optimizer import build_optimizer

PAGE = (Path(__file__).parents[1] / "docs" / "from_libauc.md").read_text()
B, TAU = 6, 0.2
EXACT = {"rtol": 1e-9, "atol": 1e-12}


def features(seed=0):
    pair = torch.randn(2, B, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return [normalize(side, dim=1).requires_grad_() for side in (pair[0], pair.sum(dim=0))]


@pytest.mark.parametrize("epochs", [1, 7])
def test_visits_have_the_gamma_of_epochs(epochs):
    for epoch in range(10):
        progress = min(epoch / epochs, 1)
        gamma = 0.5 * (1 + math.cos(math.pi * progress)) * (1 - 0.3) + 0.3  # adjust_gamma(epoch)
        if epochs == 1:  # "constant"
            gamma = 1.0 if epoch == 0 else 0.3
        assert step_size(torch.tensor(epoch + 1), 0.3, epochs).item() == pytest.approx(gamma)


def test_two_views_have_twice_the_gradient_there():
    """GCLoss_v1 at a first visit, where both views have the same negatives and so the same u."""
    a = features()[0]
    b = a.detach().clone().requires_grad_()
    total = 0
    for own, other in ((a, b), (b, a)):
        for i in range(B):
            logits = [own[i] @ side[j] for j in range(B) if j != i for side in (own, other)]
            weights = [(s / TAU).exp().detach() for s in logits]
            u = sum(weights) / len(weights)
            drawn = sum(w / u * s for w, s in zip(weights, logits, strict=True)) / len(logits)
            total = total + (drawn - own[i] @ other[i]) / B
    theirs = torch.autograd.grad(total, (a, b))
    loss = GlobalContrastiveLoss(B, temperature=TAU, scale="temperature", dtype=torch.float64)
    pair = [side.detach().clone().requires_grad_() for side in (a, b)]
    ours = torch.autograd.grad(loss(*pair, torch.arange(B)), pair)
    # Here features are normalized once more, which takes the radial part away.
    for x, own, other in zip((a, b), ours, theirs, strict=True):
        tangent = other - (other * x).sum(dim=1, keepdim=True) * x
        torch.testing.assert_close(tangent, 2 * own, **EXACT)


def bimodal(a, b, tau):
    """GCLoss_v2 at a first visit: the loss, and the gradient of each temperature by side."""
    total, slopes = 0, []
    for own, other in ((a, b), (b, a)):
        slopes.append([])
        for i in range(B):
            logits = [own[i] @ other[j] - own[i] @ other[i] for j in range(B) if j != i]
            g = sum((s / tau).exp().detach() for s in logits) / (B - 1)
            p = [(s / tau).exp().detach() / g for s in logits]
            total = total + sum(w * s for w, s in zip(p, logits, strict=True)) / B / 2
            mean = sum(w * s.detach() / tau for w, s in zip(p, logits, strict=True)) / (B - 1)
            slopes[-1].append((g.log() - mean).item())
    return total, torch.tensor(slopes)


def test_the_gradient_of_pairs_grows_with_the_batch_there():
    a, b = features()
    theirs = torch.autograd.grad(bimodal(a, b, TAU)[0], (a, b))
    loss = GlobalClipLoss(B, temperature=TAU, dtype=torch.float64)
    ours = torch.autograd.grad(loss(a, b, torch.arange(B)), (a, b))
    for x, own, other in zip((a, b), ours, theirs, strict=True):
        tangent = other - (other * x).sum(dim=1, keepdim=True) * x
        torch.testing.assert_close(tangent, (B - 1) * TAU * own, **EXACT)


def test_isogclr_takes_the_step_of_eta_and_beta():
    eta, beta, rho = 0.03, 0.4, 0.9
    settings = {"rho": rho, "learning_rate": eta, "momentum": 1 - beta}
    temperature = IndividualTemperature(TAU, minimum=0.05, maximum=0.7, **settings)
    loss = GlobalClipLoss(B, temperature=temperature, dtype=torch.float64)
    a, b = features()
    loss(a, b, torch.arange(B))
    sides = (loss.temperature_a, loss.temperature_b)
    for slope, own in zip(bimodal(a, b, TAU)[1], sides, strict=True):
        velocity = (1 - beta) * 0 + beta * (slope + rho)
        torch.testing.assert_close(own.velocity[:B], velocity, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(own.tau[:B], (TAU - eta * velocity).clamp(0.05, 0.7))


def trained(make, clip=None):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3).double()
    optimizer = make(model)
    for step in range(5):
        for weight in model.parameters():
            weight.grad = 30 * torch.sin(weight.detach() + step)
        if clip is not None:
            torch.nn.utils.clip_grad_value_(model.parameters(), clip)
        optimizer.step()
    return list(model.parameters())


class LibAucLars:
    """A step of SogCLR(mode="lars"): rates are adapted for matrices alone."""

    def __init__(self, model, lr, weight_decay):
        self.model, self.lr, self.weight_decay, self.velocity = model, lr, weight_decay, {}

    @torch.no_grad()
    def step(self):
        for weight in self.model.parameters():
            update = weight.grad
            if weight.ndim > 1:
                update = update + self.weight_decay * weight
                update = 0.001 * weight.norm() / update.norm() * update
            self.velocity[weight] = 0.9 * self.velocity.get(weight, 0) + update
            weight -= self.lr * self.velocity[weight]


def test_lars_takes_the_same_steps():
    """Up to |gradient| + decay |weight| in place of |gradient + decay weight|."""
    expected = trained(lambda model: LibAucLars(model, 0.1, 1e-6))
    options = {"lr": 0.1, "weight_decay": 1e-6, "momentum": 0.9}
    of_page = trained(lambda model: create_optimizer_v2(model, "lars", **options))
    recipe = Recipe(optimizer="lars", learning_rate=0.1, weight_decay=1e-6)
    of_run = trained(lambda model: build_optimizer(model, torch.nn.Module(), recipe))
    for ours in (of_page, of_run):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)


class LibAucAdamW:
    """A step of SogCLR(mode="adamw"): every entry of a gradient is clipped to 10."""

    def __init__(self, model):
        self.model, self.steps, self.moments = model, 0, {}

    @torch.no_grad()
    def step(self):
        self.steps += 1
        for weight in self.model.parameters():
            weight *= 1 - 0.1 * 1e-2
            gradient = weight.grad.clamp(-10, 10)
            first, second = self.moments.get(weight, (0, 0))
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            self.moments[weight] = first, second
            scale = (second / (1 - 0.999**self.steps)).sqrt() + 1e-8
            weight -= 0.1 * first / (1 - 0.9**self.steps) / scale


def test_adamw_takes_the_same_steps():
    adamw = lambda model: torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=1e-2)  # noqa: E731
    expected = trained(LibAucAdamW)
    torch.testing.assert_close(trained(adamw, clip=10), expected, **EXACT)
    assert not torch.allclose(trained(adamw)[0], expected[0])  # clipping matters


def of_torchvision(shape, **labels):
    """A data set as torchvision builds it: an array of pixels, and labels."""
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return SimpleNamespace(data=pixels, **labels)


def test_data_sets_of_torchvision_are_arrays(tmp_path, monkeypatch):
    """CIFAR's labels are a list, STL-10's an array, and its pixels `(N, 3, 96, 96)`."""
    monkeypatch.chdir(tmp_path)
    ten = [i % 2 for i in range(20)]
    cifar = lambda root, train, download: of_torchvision((20, 32, 32, 3), targets=ten)  # noqa: E731
    stl = {
        "unlabeled": of_torchvision((20, 3, 96, 96), labels=np.full(20, -1)),
        "train": of_torchvision((20, 3, 96, 96), labels=np.array(ten)),
    }
    monkeypatch.setattr(datasets, "CIFAR10", cifar)
    monkeypatch.setattr(datasets, "STL10", lambda root, split, download: stl[split])
    (code,) = re.findall(r"```python\n(import sogclr\n.*?)```", PAGE, flags=re.DOTALL)
    small = ', epochs=1, batch_size=8, encoder="small", image_size=16, device="cpu")'
    code = re.sub(r'("runs/\w+")\)(.*\n)(?=sogclr.eval)', rf"\1{small}\2", code)
    assert code.count(small) == 2
    exec(code, {})
    for name in ("cifar10", "stl10"):
        assert (tmp_path / "runs" / name / "evaluations.jsonl").is_file()


def test_any_data_set_gets_its_index(tmp_path):
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "1.png")
    data = IndexedDataset(datasets.ImageFolder(str(tmp_path)))
    assert [(index, label) for index, (_, label) in (data[i] for i in range(2))] == [(0, 0), (1, 1)]


def test_what_the_page_says_of_libauc():
    """Each `print` of the page in turn, against the comment behind it."""
    pytest.importorskip("libauc")
    part = PAGE[PAGE.index("## What differs") : PAGE.index("## A run that is under way")]
    code = "\n".join(re.findall(r"```py\n(.*?)```", part, flags=re.DOTALL))
    said = re.findall(r"^ *print\(.*?\)  # (.*?)(?:[:;].*)?$", code, flags=re.MULTILINE)
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(code, {})
    lines = [line for line in printed.getvalue().splitlines() if not line.startswith("Using ")]
    assert len(lines) == len(said) > 8
    for line, comment in zip(lines, said, strict=True):
        assert comment in (line, line.removeprefix("tensor(").removesuffix(")"))
