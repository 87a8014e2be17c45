"""Calls the library under neutral names: the only place here that knows what it calls things.

A rename in the library is one changed line in the tables below; the recording stays as it is.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import sogclr

CLASSES = {
    "sogclr": "GlobalContrastiveLoss",
    "pairs": "GlobalClipLoss",
    "simclr": "NTXentLoss",
    "dcl": "DecoupledContrastiveLoss",
    "clip": "ClipLoss",
    "dcl of pairs": "DecoupledClipLoss",
    "moco": "MoCoLoss",
    "siglip": "SigLipLoss",
    "learned": "LearnedTemperature",
    "individual": "IndividualTemperature",
}
SETTINGS = {  # of losses
    "temperature": "temperature",
    "scale": "scale",
    "dtype": "dtype",
    "candidates": "effective_negatives",
    "recent": "memory_size",
    "stored_views": "num_stored_views",
    "gamma_min": "gamma_min",
    "gamma_decay": "gamma_decay_visits",
}
RHO = "rho"  # of temperatures
IDS = {  # of a call, after the features and `index`
    "index_b": "index_b",
    "group": "group",
    "views": "views",
    "key": "sample_key",
    "key_b": "sample_key_b",
}
STATE = {  # neutral names to those in a state_dict, and what to take of it
    "log u": ("normalizer.table", 0),
    "log u, a": ("normalizer_a.table", 0),
    "log u, b": ("normalizer_b.table", 0),
    "visits": ("normalizer.table", 1),
    "visits, a": ("normalizer_a.table", 1),
    "visits, b": ("normalizer_b.table", 1),
    "tau": ("temperature.tau", None),
    "tau, a": ("temperature_a.tau", None),
    "tau, b": ("temperature_b.tau", None),
    "velocity": ("temperature.velocity", None),
    "velocity, a": ("temperature_a.velocity", None),
    "velocity, b": ("temperature_b.velocity", None),
    "queue": ("queue.keys", None),
    "ids in queue": ("queue.ids", None),
    "filled of queue": ("queue.filled", None),
    "place in queue": ("queue.position", None),
    "recent": ("memory.vectors", None),
    "ids of recent": ("memory.ids", None),
    "filled of recent": ("memory.filled", None),
}
PARAMETERS = {  # as STATE; a name that a loss lacks is passed over
    "log tau": "temperature.log_temperature",
    "log tau of pairs": "temperature_a.log_temperature",
    "log scale": "log_scale",
    "bias": "bias",
}
RUN_SETTINGS = {  # of `pretrain` and `align`, where neutral names differ or may come to
    "recent": "memory_size",
    "candidates": "effective_negatives",
    "accumulate": "accumulate",
    "tau": "temperature_mode",
    "rho": "rho",
}
WEIGHTS = {"pretrain": "encoder.safetensors", "align": "trained.safetensors"}
MOMENTARY = ("samples_per_second",)  # metrics that no two runs share

PER_SAMPLE = ("sogclr", "pairs")  # with a table
OF_PAIRS = ("pairs", "clip", "dcl of pairs", "siglip")
SAMPLES, QUEUE = 30, 20


def _class(name: str) -> Any:
    return getattr(sogclr, CLASSES[name])


def make_temperature(kind: str, initial: float, rho: float | None = None) -> Any:
    """Make a temperature: `kind` is constant, learned or individual."""
    if kind == "constant":
        return initial
    return _class(kind)(initial, **({} if rho is None else {RHO: rho}))


def make_loss(
    name: str,
    scale: str,
    temperature: tuple[Any, ...],
    dtype: torch.dtype,
    width: int,
    rows: int = SAMPLES,
    **settings: Any,
) -> nn.Module:
    """Make a loss; what it keeps is of `dtype`, and on side b has twice as many rows."""
    if name == "siglip":
        loss = _class(name)()
    else:
        said = {"scale": scale, "temperature": make_temperature(*temperature), **settings}
        if name in (*PER_SAMPLE, "moco"):
            said["dtype"] = dtype
        sizes = {"sogclr": (rows,), "pairs": ((rows, 2 * rows),), "moco": (QUEUE, width)}
        named = {SETTINGS[key]: value for key, value in said.items()}
        loss = _class(name)(*sizes.get(name, ()), **named)
    loss = loss.to(dtype)
    if dtype == torch.float64:  # what is kept per sample stays as it is when a loss is cast
        for module in loss.modules():
            if isinstance(module, _class("individual")):
                for key in ("tau", "velocity"):
                    setattr(module, key, getattr(module, key).double())
    return loss


def call(name: str, loss: nn.Module, a: Tensor, b: Tensor, ids: Mapping[str, Any]) -> Tensor:
    """Take the loss of a batch; `ids` may lack `index`."""
    features = (a, b, b.detach() + 1, a.detach() - 1) if name == "moco" else (a, b)
    index = (ids["index"],) if "index" in ids else ()
    return loss(*features, *index, **{IDS[k]: v for k, v in ids.items() if k != "index"})


def parameters(loss: nn.Module) -> dict[str, nn.Parameter]:
    """List what is learned, under neutral names."""
    there = dict(loss.named_parameters())
    found = {name: there[own] for name, own in PARAMETERS.items() if own in there}
    assert len(found) == len(there), f"PARAMETERS lacks some of {[*there]}"
    return found


def state(loss: nn.Module) -> dict[str, Tensor]:
    """Copy what a loss keeps, under neutral names."""
    there = loss.state_dict()
    found = {}
    for name, (own, column) in STATE.items():
        if own in there:
            value = there[own] if column is None else there[own][:, column]
            found[name] = value.detach().clone().contiguous()
    if "normalizer.table" in there and "ids of recent" in found:  # samples were stacked first
        found["ids of recent"] = found["ids of recent"].roll(1, dims=0)
    return found


def run(verb: str, data: Any, out: Any, **settings: Any) -> dict[str, Any]:
    """Train, and return the last metrics."""
    named = {RUN_SETTINGS.get(key, key): value for key, value in settings.items()}
    result = getattr(sogclr, verb)(data, out, **named)
    assert result.complete
    return {key: value for key, value in result.metrics.items() if key not in MOMENTARY}
