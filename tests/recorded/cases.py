"""Losses on seeded batches: what is recorded of each, by one process and by two."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import adapter
import torch
import torch.distributed as dist
from adapter import OF_PAIRS, PER_SAMPLE, SAMPLES
from torch import Tensor, multiprocessing

WIDTH, BATCH, STEPS = 6, 12, 5
SHARES = (7, 5)  # of a batch, where two processes share it
LEARNING_RATE = 0.05  # of a learned temperature, so that it moves
SCALES = ("temperature", "cross-entropy")
CONSTANT = ("constant", 0.3)
TEMPERATURES = {
    "constant": CONSTANT,
    "tiny": ("constant", 0.004),
    "learned": ("learned", 0.3),
    "learned with rho": ("learned", 0.3, 1.0),
    "individual": ("individual", 0.3, 1.0),
}
IN_BATCH = ("simclr", "dcl", "clip", "dcl of pairs")
SOFTMAX = (*PER_SAMPLE, *IN_BATCH, "moco")
LOSSES = (*SOFTMAX, "siglip")


def plain(draw: torch.Generator) -> dict[str, Any]:
    """All different."""
    return {"index": torch.randperm(SAMPLES, generator=draw)[:BATCH]}


def repeated(draw: torch.Generator) -> dict[str, Any]:
    """Few, so that most occur several times."""
    return {"index": torch.randint(5, (BATCH,), generator=draw)}


def nameless(draw: torch.Generator) -> dict[str, Any]:
    """None at all."""
    return {}


def alike(draw: torch.Generator) -> dict[str, Any]:
    """One sample, over and over: nothing is a negative."""
    return {"index": torch.full((BATCH,), 3)}


def one_group(draw: torch.Generator) -> dict[str, Any]:
    """Different ones that mean the same: nothing is a negative."""
    return {**plain(draw), "group": torch.full((BATCH,), 3)}


def grouped(draw: torch.Generator) -> dict[str, Any]:
    return {**plain(draw), "group": torch.randint(6, (BATCH,), generator=draw)}


def captioned(draw: torch.Generator) -> dict[str, Any]:
    """Of five images, ten captions: pairs share either."""
    ids = repeated(draw)
    return {**ids, "index_b": 2 * ids["index"] + torch.randint(2, (BATCH,), generator=draw)}


def captioned_and_grouped(draw: torch.Generator) -> dict[str, Any]:
    ids = plain(draw)
    captions = 2 * ids["index"] + torch.randint(2, (BATCH,), generator=draw)
    return {**ids, "index_b": captions, "group": torch.randint(6, (BATCH,), generator=draw)}


def stored_views(draw: torch.Generator) -> dict[str, Any]:
    views = torch.randint(3, (2, BATCH), generator=draw)
    return {**repeated(draw), "views": tuple(views)}


def keyed(draw: torch.Generator) -> dict[str, Any]:
    """Thirty samples, of which three share a row."""
    sample = torch.randint(SAMPLES, (BATCH,), generator=draw)
    return {"index": sample % 10, "key": sample * 2**40}


def keyed_pairs(draw: torch.Generator) -> dict[str, Any]:
    ids = keyed(draw)
    text = 2 * (ids["key"] // 2**40) + torch.randint(2, (BATCH,), generator=draw)
    return {**ids, "index_b": text % 20, "key_b": text - 2**62}


def keyed_groups(draw: torch.Generator) -> dict[str, Any]:
    return {**keyed_pairs(draw), "group": torch.randint(6, (BATCH,), generator=draw)}


@dataclass(frozen=True)
class Case:
    """A loss and how it is called.

    Attributes:
        loss, scale, temperature, settings: see `adapter.make_loss`.
        ids: who the samples of a batch are, given a source of random numbers.
        dtype: of the features.
        batch: how many samples.
    """

    loss: str
    scale: str = "temperature"
    temperature: tuple[Any, ...] = CONSTANT
    ids: Callable[[torch.Generator], dict[str, Any]] = plain
    settings: Mapping[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float64
    batch: int = BATCH

    @property
    def kept(self) -> torch.dtype:
        """The dtype of what the loss keeps and learns."""
        return torch.promote_types(self.dtype, torch.float32)


def _temperatures() -> dict[str, Case]:
    made = {}
    for loss, scale, (name, tau) in product(SOFTMAX, SCALES, TEMPERATURES.items()):
        if name != "individual" or loss in PER_SAMPLE:
            made[f"{loss}, {scale}, {name}"] = Case(loss, scale, tau)
    made["siglip"] = Case("siglip")
    return made


# Of which losses, who the samples are, and settings.
_KINDS: dict[str, tuple[tuple[str, ...], Any, dict[str, Any]]] = {
    "repeated ids": (LOSSES, repeated, {}),
    "nameless": ((*IN_BATCH, "siglip"), nameless, {}),
    "all alike": (LOSSES, alike, {}),
    "all of one group": (OF_PAIRS, one_group, {}),
    "groups": (OF_PAIRS, grouped, {}),
    "captions": (OF_PAIRS, captioned, {}),
    "captions and groups": (OF_PAIRS, captioned_and_grouped, {}),
    "candidates": (PER_SAMPLE, repeated, {"candidates": 7.0}),
    "candidates, all alike": (PER_SAMPLE, alike, {"candidates": 7.0}),
    "recent": (PER_SAMPLE, plain, {"recent": 9}),
    "recent, repeated ids": (PER_SAMPLE, repeated, {"recent": 9}),
    "recent, more than a batch": (PER_SAMPLE, plain, {"recent": 17}),
    "recent, captions and groups": (("pairs",), captioned_and_grouped, {"recent": 9}),
    "candidates and recent": (PER_SAMPLE, plain, {"candidates": 7.0, "recent": 9}),
    "stored views": (("sogclr",), stored_views, {"stored_views": 3}),
    "stored views, recent": (("sogclr",), stored_views, {"stored_views": 3, "recent": 9}),
    "keys": (PER_SAMPLE, keyed, {"rows": 10}),
    "keys, recent": (PER_SAMPLE, keyed, {"rows": 10, "recent": 9}),
    "keys of both": (("pairs",), keyed_pairs, {"rows": 10}),
    "keys of both, groups": (("pairs",), keyed_groups, {"rows": 10}),
    "keys of both, groups, recent": (("pairs",), keyed_groups, {"rows": 10, "recent": 9}),
    "gamma_decay": (PER_SAMPLE, repeated, {"gamma_decay": 3}),
    "gamma_min": (PER_SAMPLE, repeated, {"gamma_min": 0.7}),
}
# What else goes with a temperature of which kind.
_TOGETHER = [
    ("repeated ids", ("learned", "learned with rho", "individual")),
    ("candidates", ("tiny", "learned", "learned with rho", "individual")),
    ("recent", ("tiny", "learned", "learned with rho", "individual")),
    ("candidates and recent", ("learned with rho", "individual")),
    ("captions", ("learned", "individual")),
    ("stored views", ("individual",)),
    ("keys of both", ("individual",)),
    ("keys, recent", ("individual",)),
    ("all alike", ("individual",)),
]


def _kinds() -> dict[str, Case]:
    made = {}
    for kind, (losses, ids, settings) in _KINDS.items():
        for loss, scale in product(losses, SCALES):
            if loss == "siglip":
                made[f"siglip, {kind}"] = Case(loss, ids=ids, settings=settings)
            else:
                made[f"{loss}, {scale}, {kind}"] = Case(loss, scale, CONSTANT, ids, settings)
    for kind, temperatures in _TOGETHER:
        losses, ids, settings = _KINDS[kind]
        for number, (loss, tau) in enumerate(product(losses, temperatures)):
            if loss in PER_SAMPLE:
                scale = SCALES[number % 2]
                name = f"{loss}, {scale}, {kind}, {tau}"
                made[name] = Case(loss, scale, TEMPERATURES[tau], ids, settings)
    for loss in LOSSES:
        made[f"{loss}, one sample"] = Case(loss, batch=1)
        made[f"{loss}, one sample, cross-entropy"] = Case(loss, "cross-entropy", batch=1)
    for loss in PER_SAMPLE:
        tau = TEMPERATURES["individual"]
        made[f"{loss}, one sample, individual"] = Case(loss, temperature=tau, batch=1)
    del made["siglip, one sample, cross-entropy"]
    return made


def _dtypes() -> dict[str, Case]:
    made = {}
    for dtype in (torch.float32, torch.bfloat16):
        kept = {
            "sogclr": Case("sogclr", dtype=dtype, ids=repeated),
            "sogclr, recent": Case("sogclr", dtype=dtype, settings={"recent": 9}),
            "pairs": Case("pairs", "cross-entropy", dtype=dtype, ids=captioned_and_grouped),
            "clip, learned": Case("clip", "cross-entropy", ("learned", 0.3), dtype=dtype),
            "pairs, individual": Case(
                "pairs", "temperature", ("individual", 0.3, 1.0), dtype=dtype
            ),
            "moco": Case("moco", dtype=dtype),
            "siglip": Case("siglip", dtype=dtype),
        }
        made |= {f"{name}, {str(dtype).split('.')[1]}": case for name, case in kept.items()}
    return made


CASES = {**_temperatures(), **_kinds(), **_dtypes()}
SHARED = {  # by two processes
    f"two processes: {name}": CASES[name]
    for name in (
        "sogclr, temperature, constant",
        "sogclr, cross-entropy, repeated ids",
        "sogclr, temperature, candidates",
        "sogclr, temperature, recent",
        "sogclr, temperature, learned with rho",
        "sogclr, temperature, individual",
        "sogclr, temperature, stored views",
        "sogclr, temperature, keys",
        "pairs, temperature, constant",
        "pairs, cross-entropy, captions and groups",
        "pairs, temperature, candidates and recent",
        "pairs, temperature, recent, captions and groups",
        "pairs, temperature, learned",
        "pairs, temperature, individual",
        "pairs, temperature, keys of both, groups",
        "simclr, temperature, constant",
        "simclr, temperature, repeated ids",
        "dcl, cross-entropy, nameless",
        "clip, cross-entropy, learned",
        "clip, temperature, captions and groups",
        "dcl of pairs, temperature, constant",
        "moco, temperature, constant",
        "moco, cross-entropy, learned",
        "siglip",
        "siglip, captions and groups",
    )
}


def batch(case: Case, step: int, own: slice) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Draw features of both sides and ids, and keep this process's own."""
    draw = torch.Generator().manual_seed(step)
    a, b = torch.randn(2, BATCH, WIDTH, generator=draw, dtype=torch.float64)
    ids = case.ids(draw)
    own = slice(0, case.batch) if case.batch < BATCH else own
    a, b = (each[own].to(case.dtype).clone().requires_grad_() for each in (a, a + b))
    cut = {
        name: tuple(view[own] for view in each) if isinstance(each, tuple) else each[own]
        for name, each in ids.items()
    }
    return a, b, cut


def compute(case: Case, own: slice = slice(0, BATCH)) -> dict[str, Tensor]:
    """Take five steps, then one in eval mode and one without gradients; return all that counts.

    Returns:
        `value` (7,), `gradient` (6, 2, n, d), of learned numbers theirs (6,) and, under the name
        of each, what the loss keeps in the end.
    """
    width, dtype = WIDTH, case.kept
    loss = adapter.make_loss(case.loss, case.scale, case.temperature, dtype, width, **case.settings)
    learned = adapter.parameters(loss)
    values, gradients = [], []
    slopes: dict[str, list[Tensor]] = {name: [] for name in learned}
    for step in range(STEPS + 1):
        loss.train(step < STEPS)
        a, b, ids = batch(case, step, own)
        loss.zero_grad()
        value = adapter.call(case.loss, loss, a, b, ids)
        value.backward()
        values.append(value.detach())
        gradients.append(torch.stack([a.grad, b.grad]))
        for name, parameter in learned.items():
            slopes[name].append(parameter.grad.clone())
            if step < STEPS:
                parameter.data -= LEARNING_RATE * parameter.grad
    loss.train()
    with torch.no_grad():
        values.append(adapter.call(case.loss, loss, *batch(case, STEPS + 1, own)))
    found = {"value": torch.stack(values), "gradient": torch.stack(gradients)}
    found |= {f"by {name}": torch.stack(each) for name, each in slopes.items()}
    found |= {name: parameter.detach().clone() for name, parameter in learned.items()}
    return found | adapter.state(loss)


def _work(rank: int, folder: str) -> None:
    """Compute this process's share of all cases that are shared, into a file."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", len(SHARES))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=len(SHARES))
    own = slice(sum(SHARES[:rank]), sum(SHARES[: rank + 1]))
    found = {name: compute(case, own) for name, case in SHARED.items()}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def compute_shared(folder: Path) -> dict[str, dict[str, Tensor]]:
    """Compute all cases that two processes share, with scratch files in `folder`.

    Returns:
        As `compute`; gradients are those of both processes, one after the other. What else the
        second one finds must be equal to the first's.
    """
    multiprocessing.spawn(_work, (str(folder),), nprocs=len(SHARES))
    ranks = [torch.load(folder / f"{rank}.pt") for rank in range(len(SHARES))]
    joined = {}
    for name in SHARED:
        first, *others = (each[name] for each in ranks)
        parts = [first.pop("gradient"), *(other.pop("gradient") for other in others)]
        for other in others:
            torch.testing.assert_close(other, first, rtol=1e-12, atol=1e-12)
        joined[name] = {**first, "gradient": torch.cat(parts, dim=2)}
    return joined
