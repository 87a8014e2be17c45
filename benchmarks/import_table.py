"""Begin runs with LibAUC and FastCLIP, take over their tables, and go on with this package.

    pip install libauc==2.0.1
    git clone https://github.com/Optimization-AI/fast_clip
    python benchmarks/import_table.py --fast-clip fast_clip/src/fast_clip/loss.py

1,797 digits: two views with noise, or pairs of an upper and a lower half. A small encoder is
trained for 12 epochs at batch 64 by the other library, whose state is saved as a file.
`sogclr.import_table` reads the file, and the run goes on for four epochs: with the table, where u
counts for 12 visits or for one, and with an empty table.

    difference  largest |log u here - log u there| after both libraries visited one more batch
    error       root mean square of log u - log g over the visits of each further epoch; log g is
                computed from all samples

Writes `results/import_table.json`; takes a minute of one core. FastCLIP is left out without its
file.
"""

import argparse
import copy
import importlib.util
import io
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from machine import machine
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from sogclr import GlobalClipLoss, GlobalContrastiveLoss, IndividualTemperature, import_table

RESULTS = Path(__file__).parent / "results" / "import_table.json"
EPOCHS, MORE_EPOCHS, BATCH, TAU, GAMMA, RHO, NOISE = 12, 4, 64, 0.2, 0.2, 0.5, 0.15
N = 1_797
CASES = ("GCLoss_v1", "GCLoss_v1, iSogCLR", "GCLoss_v2", "GCLoss_v2, iSogCLR")
FASTCLIP_CASES = ("FastCLIP v3", "FastCLIP v2")

Step = Callable[[Tensor, Tensor, Tensor], Tensor]  # of both sides' features, and the index


def encoders(pairs: bool) -> nn.ModuleList:
    torch.manual_seed(0)
    width = 32 if pairs else 64
    towers = [
        nn.Sequential(nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, 32))
        for _ in range(1 + pairs)
    ]
    return nn.ModuleList(towers)


class Digits:
    """Features of both sides of digits, with the noise that is given."""

    def __init__(self, pairs: bool) -> None:
        self.images = torch.tensor(load_digits().data / 16, dtype=torch.float32)
        self.pairs = pairs

    def features(self, model: nn.ModuleList, index: Tensor, noise: float) -> tuple[Tensor, Tensor]:
        x = self.images[index]
        if self.pairs:
            return normalize(model[0](x[:, :32])), normalize(model[1](x[:, 32:]))
        first, second = (model[0](x + noise * torch.randn_like(x)) for _ in range(2))
        return normalize(first), normalize(second)


def batches() -> Iterator[Tensor]:
    yield from torch.randperm(N).split(BATCH)[:-1]


def train(step: Step, model: nn.ModuleList, digits: Digits, parameters: list[Tensor]) -> None:
    """Train for one epoch."""
    optimizer = torch.optim.Adam([*model.parameters(), *parameters], lr=1e-3)
    for index in batches():
        value = step(*digits.features(model, index, NOISE), index)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()


class LibAuc:
    """LibAUC's loss, and its state as a file."""

    def __init__(self, case: str) -> None:
        from libauc.losses import GCLoss

        self.pairs, self.individual = "v2" in case, "iSogCLR" in case
        settings: dict[str, Any] = {"tau": TAU, "gamma": GAMMA, "enable_isogclr": self.individual}
        settings |= {"gamma_schedule": "cosine", "gamma_decay_epochs": EPOCHS // 2, "rho": RHO}
        settings |= {"tau_min": 0.05, "tau_max": 1.0}
        settings |= {} if self.pairs else {"device": "cpu"}
        with redirect_stdout(io.StringIO()):
            self.loss = GCLoss("bimodal" if self.pairs else "unimodal", N=N, **settings)
        self.parameters: list[Tensor] = []

    def begin_epoch(self, epoch: int) -> None:
        with redirect_stdout(io.StringIO()):
            self.loss.adjust_gamma(epoch)

    def __call__(self, a: Tensor, b: Tensor, index: Tensor) -> Tensor:
        value = self.loss(a, b, index)
        return value[0] if self.pairs else value

    def save(self, path: Path, model: nn.Module, epochs: int) -> None:
        state = vars(self.loss.loss_fn).items()
        kept = {name: value for name, value in state if isinstance(value, (Tensor, float))}
        torch.save(kept, path)

    def taus(self) -> list[Tensor]:
        loss = self.loss.loss_fn
        if self.pairs and self.individual:
            return [loss.learnable_tau_img.clone(), loss.learnable_tau_txt.clone()]
        return [torch.full((N, 1), TAU)] * 2

    def log_u(self, positive: Tensor, taus: list[Tensor]) -> list[Tensor]:
        loss = self.loss.loss_fn
        if not self.pairs:
            return [loss.u.log().squeeze()]
        sides = zip((loss.u1, loss.u2), (loss.b1, loss.b2), taus, strict=True)
        return [(u.log() + b + positive[:, None] / tau).squeeze() for u, b, tau in sides]


class FastClip:
    """FastCLIP's loss, called as by its `train_one_epoch`, and its checkpoint."""

    pairs = True

    def __init__(self, case: str, path: Path) -> None:
        spec = importlib.util.spec_from_file_location("fast_clip_loss", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        settings: dict[str, Any] = {"data_size": N, "gamma": GAMMA, "gamma_schedule": "cosine"}
        settings |= {"gamma_decay_epochs": EPOCHS // 2, "rho": RHO, "device": torch.device("cpu")}
        self.log_scale = torch.tensor(-math.log(TAU), requires_grad="v3" in case)
        self.individual = "v2" in case
        if self.individual:
            settings |= {"tau_init": TAU, "lr_tau": 1e-3, "multiply_tau": False}
            self.loss = module.FastCLIPLossIndividual(**settings)
        else:
            self.loss = module.FastCLIPLoss(**settings)
        self.parameters = [self.log_scale] if self.log_scale.requires_grad else []

    def begin_epoch(self, epoch: int) -> None:
        self.loss.adjust_hyperparams(epoch)

    def __call__(self, a: Tensor, b: Tensor, index: Tensor) -> Tensor:
        both = {"features": (a, b), "remote_features": (a, b), "offset": 0}
        both["logit_scale"] = self.log_scale.exp()
        *loss1, sim_im, sim_tt, state = self.loss.local(indices=(index, index), **both)
        self.loss.set_params(index, index, *(value.detach() for value in state))
        both |= {"remote_u": state[:2], "u": state[:2], "loss1": tuple(loss1)}
        both |= {"remote_bounds": state[4:6], "remote_tau": state[6:8]}
        value: Tensor = self.loss(sim=(sim_tt.T, sim_im.T), **both)
        return value

    def save(self, path: Path, model: nn.Module, epochs: int) -> None:
        weights = {**model.state_dict(), "logit_scale": self.log_scale.detach()}
        names = ["u_im", "u_tt"]
        if self.individual:
            for name in ("tau", "m_grad_tau", "v_grad_tau", "bound"):
                names += [f"{name}_im", f"{name}_tt"]
        state = {name: getattr(self.loss, name) for name in names}
        torch.save({"epoch": epochs, "name": "digits", "state_dict": weights, **state}, path)

    def taus(self) -> list[Tensor]:
        if self.individual:
            return [self.loss.tau_im.clone(), self.loss.tau_tt.clone()]
        return [(-self.log_scale.detach()).exp().expand(N, 1)] * 2

    def log_u(self, positive: Tensor, taus: list[Tensor]) -> list[Tensor]:
        sides = []
        for side, tau in zip(("im", "tt"), taus, strict=True):
            log_u = getattr(self.loss, f"u_{side}").log()
            if self.individual:
                log_u = log_u + getattr(self.loss, f"bound_{side}")
            sides.append((log_u + positive[:, None] / tau).squeeze())
        return sides


def own_loss(other: LibAuc | FastClip, case: str) -> GlobalContrastiveLoss | GlobalClipLoss:
    """Make the loss that goes on, with the temperature that the other run has reached."""
    tau = float((-other.log_scale.detach()).exp()) if isinstance(other, FastClip) else TAU
    individual = "iSogCLR" in case or case == "FastCLIP v2"
    temperature = IndividualTemperature(tau, rho=RHO) if individual else tau
    kind = GlobalClipLoss if other.pairs else GlobalContrastiveLoss
    return kind(N, temperature=temperature, gamma_min=GAMMA, scale="temperature")


@torch.no_grad()
def positives(model: nn.ModuleList, digits: Digits) -> Tensor:
    return cosine_similarity(*digits.features(model, torch.arange(N), NOISE))


def difference(other: LibAuc | FastClip, loss: Any, model: nn.ModuleList, digits: Digits) -> float:
    """Let both libraries visit one more batch, and compare their log u of its samples."""
    index = next(batches())
    with torch.no_grad():
        a, b = digits.features(model, index, NOISE)
    loss(a.requires_grad_(), b.requires_grad_(), index)
    taus = other.taus()  # of this visit; their next values belong to the next one
    other(a, b, index)
    positive = torch.zeros(N)
    positive[index] = (a * b).sum(dim=1).detach()
    theirs = other.log_u(positive, taus)
    sides = zip(loss.sides(), theirs, strict=True)
    return max(float((own[0].log_u[index] - u[index]).abs().max()) for own, u in sides)


def errors(loss: Any, model: nn.ModuleList, digits: Digits) -> list[float]:
    """Go on with this package's loss: the root mean square error of log u in each epoch."""
    model, found = copy.deepcopy(model), []
    for _ in range(MORE_EPOCHS):
        squares: list[Tensor] = []

        def step(a: Tensor, b: Tensor, index: Tensor, squares: list[Tensor] = squares) -> Tensor:
            value = loss(a, b, index)
            squares.append(square_errors(loss, model, digits, a.detach(), b.detach(), index))
            return value

        train(step, model, digits, [])
        found.append(float(torch.cat(squares).mean().sqrt()))
    return found


@torch.no_grad()
def square_errors(
    loss: Any, model: nn.ModuleList, digits: Digits, a: Tensor, b: Tensor, index: Tensor
) -> Tensor:
    all_a, all_b = digits.features(model, torch.arange(N), NOISE)
    itself = torch.arange(N) == index[:, None]  # (B, N)
    tables, temperatures = zip(*loss.sides(), strict=True)
    log_g = []
    for side, (anchor, other) in enumerate(((a, all_b), (b, all_a))):
        tau = temperatures[min(side, len(temperatures) - 1)](index)
        tau = tau[:, None] if isinstance(tau, Tensor) else tau
        against = [other] if digits.pairs else [all_a, all_b]
        logits = [(anchor @ x.T / tau).masked_fill(itself, -math.inf) for x in against]
        log_sum = torch.cat(logits, dim=1).logsumexp(dim=1)
        log_g.append(log_sum - math.log(len(against) * (N - 1)))
    if not digits.pairs:  # both views of a sample share its u
        log_g = [torch.logaddexp(*log_g) - math.log(2)]
    compared = zip(tables, log_g, strict=True)
    return torch.cat([(table.log_u[index] - own).square() for table, own in compared])


def measure(case: str, fast_clip: Path | None) -> dict[str, Any]:
    other = FastClip(case, fast_clip) if fast_clip is not None else LibAuc(case)
    digits, model = Digits(other.pairs), encoders(other.pairs)
    for epoch in range(EPOCHS):
        other.begin_epoch(epoch)
        train(other, model, digits, other.parameters)
    other.begin_epoch(EPOCHS)  # gamma is GAMMA from here on
    settings = {"positive": positives(model, digits)} if other.pairs else {}
    with tempfile.TemporaryDirectory() as folder:
        other.save(Path(folder) / "u.pt", model, EPOCHS)
        losses = [own_loss(other, case) for _ in range(4)]
        for loss, visits in zip(losses, (EPOCHS, EPOCHS, 1), strict=False):
            count = import_table(loss, Path(folder) / "u.pt", visits=visits, **settings)
    result: dict[str, Any] = {"taken over": count}
    result["difference"] = difference(other, losses[0], model, digits)
    names = (f"error, visits={EPOCHS}", "error, visits=1", "error, an empty table")
    for name, loss in zip(names, losses[1:], strict=True):
        result[name] = [round(each, 3) for each in errors(loss, model, digits)]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast-clip", type=Path, help="loss.py of FastCLIP's repository")
    fast_clip = parser.parse_args().fast_clip
    cases: dict[str, Path | None] = dict.fromkeys(CASES)
    if fast_clip is not None:
        cases |= dict.fromkeys(FASTCLIP_CASES, fast_clip)
    results: dict[str, Any] = {"machine": machine()}
    for case, path in cases.items():
        torch.manual_seed(1)
        results[case] = measure(case, path)
        print(case, json.dumps(results[case]))
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
