"""`sogclr.align`: from a table of pairs and two towers to a joint space."""

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data.loading import BatchPlan
from ..data.pairs import PairSource, open_pairs
from ..data.source import require_whole
from ..devices import choose_device, start
from ..errors import UserError
from ..gauge import gauge_bytes
from ..launched import processes, rank, restarts
from ..monitor import NOTHING_YET
from ..progress import say
from ..runs import Run
from ..session import Result, checkpoint_bytes, claim, conduct, request_of
from ..settings import Device
from ..training import Trainer
from ..weight_shards import require_shardable
from .building import TowerRequest, build_towers, rebuild_towers, tokenizer_of
from .features import cached_features, plain_inputs
from .inputs import ImageViews, Inputs, StoredFeatures
from .model_files import load_frozen, pair_files, read_spec, write_start
from .planning import PairPlan, PairRequest, plan_pairs
from .task import SCORED, Held, PairTask
from .towers import PairModel, PairSpec, Tower, regularize

__all__ = ["align", "task_of"]


def align(
    data: Any,
    out: str | Path,
    request: PairRequest,
    wanted: TowerRequest,
    *,
    freeze: str | Sequence[str],
    val: Any,
    device: Device,
    workers: int | None,
    checkpoint_seconds: float,
    shard_model: bool,
    resume: bool,
) -> Result:
    """See `sogclr.align`."""
    run = Run(out)
    resume = resume or (restarts() > 0 and run.checkpoint.exists())
    request = claim(run, request, "align", resume)
    if shard_model:
        require_shardable(request.method)
    kind = choose_device(device, alone=False)
    source = open_pairs(data, request.columns)
    held = None if val is None else open_pairs(val, request.columns)
    require_whole([*source.damaged, *(held.damaged if held is not None else ())], request.damaged)
    say(source.describe())
    if held is not None:
        say(f"held back: {held.describe()}")
    frozen = frozen_kinds(freeze, source.kinds)
    plan = plan_pairs(
        request,
        source,
        frozen=frozen,
        pretrained=wanted.starts_trained(),
        device=kind,
        workers=workers,
    )
    # From here on no process changes what another looks at.
    fabric = start(kind, plan.precision, shard_model=shard_model)
    torch.manual_seed(request.seed)
    spec, towers = _towers(run, wanted, frozen, source, resume)
    _tell(plan, kind, spec, towers)
    model = _model(spec, towers, plan)
    if not any(p.requires_grad for p in model.parameters()):
        raise UserError("freeze: nothing is left to train; freeze one tower only")
    tokenizer = tokenizer_of(spec, pair_files(run)["text"] if resume else None)

    if fabric.is_global_zero:
        run.create()
        bodies = sum(p.numel() * p.element_size() for k in frozen for p in towers[k].parameters())
        kept = gauge_bytes(plan.batch_size, spec.width)
        run.require_space(bodies + checkpoint_bytes(model, len(source.a) + len(source.b), kept))
        if not resume:
            write_start(run, spec, towers, tokenizer)
    inputs = _Sides(spec, towers, tokenizer, plan, fabric.device)
    with fabric.rank_zero_first():  # the others find the features it has kept
        a, b = inputs.training(source.a), inputs.training(source.b)
        scored = Held(held, *inputs.plain(held)) if held is not None else _sample(source, inputs)
    task = PairTask(model, source, a, b, plan, scored)
    batches = BatchPlan(
        source.a.ids,
        plan.batch_size,
        request.accumulate,
        request.epochs,
        request.seed,
        rank(),
        processes(),
    )
    trainer = Trainer(fabric, task, batches, plan.recipe, run, checkpoint_seconds)
    if resume:
        trainer.restore()
    else:
        trainer.monitor.restore(NOTHING_YET, fabric.device)
        # With the first checkpoint, since the weights that the towers came with are nowhere else
        # in the run; and settings last: with them, the folder is a run that can be resumed.
        trainer.save()
        settings = {"kind": "pairs", "data": _named(data), "val": _named(val)}
        if fabric.is_global_zero:
            run.write_settings(
                {**settings, "asked": asdict(request), "resolved": asdict(plan.resolved())}
            )
    return conduct(trainer, "sogclr evaluate, search, embed, sogclr.load")


def task_of(
    run: Run, data: Any, module: nn.Module | None, device: str
) -> tuple[PairTask, np.ndarray, int]:
    """What a run was asked to learn, from data with one partner a sample, to be looked at.

    Args:
        run: of `align`.
        data: pairs; of several partners one is kept.
        module: an image tower of the architecture trained, where it was the user's own.
        device: "cpu", "cuda" or "mps".

    Returns:
        The task, with the weights that the towers started from; the row of side b that is kept
        for each of side a; the width of the joint space.
    """
    request = request_of(run.read_settings(), PairRequest)
    source = open_pairs(data, request.columns)
    say(source.describe())
    partners = source.draw(request.seed, 0, np.arange(len(source.a)))
    source = replace(source, start=np.arange(len(source.a) + 1), partners=partners)
    wanted = TowerRequest(None, None, module, None, None, None, None)
    spec, towers = _towers(run, wanted, (), source, resume=True)
    batch = min(request.batch_size or len(source.a), len(source.a))
    plan = plan_pairs(
        replace(request, batch_size=batch),
        source,
        frozen=spec.frozen,
        pretrained=False,
        device=device,
        workers=None,
    )
    model = _model(spec, towers, plan)
    tokenizer = tokenizer_of(spec, pair_files(run)["text"])
    inputs = _Sides(spec, towers, tokenizer, plan, torch.device(device))
    a, b = inputs.training(source.a), inputs.training(source.b)
    return PairTask(model, source, a, b, plan, Held(source, a, b)), partners, spec.width


def _model(spec: PairSpec, towers: dict[str, Tower], plan: PairPlan) -> PairModel:
    for tower in towers.values():
        regularize(tower.head, plan.dropout)
    return PairModel(towers, spec.kinds, spec.frozen)


class _Sides:
    """The inputs of sides: of a frozen tower its features, computed once."""

    def __init__(
        self,
        spec: PairSpec,
        towers: dict[str, Tower],
        tokenizer: Any,
        plan: PairPlan,
        device: torch.device,
    ) -> None:
        self.spec, self.towers, self.tokenizer = spec, towers, tokenizer
        self.plan, self.device = plan, device
        self._stored: dict[int, StoredFeatures] = {}  # by side: training and scoring share them

    def training(self, side: Any) -> Inputs:
        kind = _kind(side)
        if kind in self.spec.frozen or kind == "text":
            return self._plain(side)
        return ImageViews(side, self.spec, self.plan.views, self.plan.request.seed)

    def plain(self, source: PairSource) -> tuple[Inputs, Inputs]:
        return self._plain(source.a), self._plain(source.b)

    def _plain(self, side: Any) -> Inputs:
        kind = _kind(side)
        if kind not in self.spec.frozen:
            return plain_inputs(side, self.spec, self.tokenizer)
        body = self.towers[kind].body
        if id(side) not in self._stored:
            features = cached_features(body, kind, side, self.spec, self.tokenizer, self.device)
            self._stored[id(side)] = StoredFeatures(features, side.names)
        return self._stored[id(side)]


def frozen_kinds(asked: str | Sequence[str], kinds: tuple[str, str]) -> tuple[str, ...]:
    """Kinds of towers, from what a person wrote.

    Raises:
        UserError: not the kind of a side.
    """
    names = [n.strip() for n in asked.split(",")] if isinstance(asked, str) else list(asked)
    names = [name for name in names if name]
    for name in names:
        if name not in kinds:
            raise UserError(
                f"freeze: {name!r} is not a side of these pairs: {', '.join(dict.fromkeys(kinds))}"
            )
    return tuple(kind for kind in dict.fromkeys(kinds) if kind in names)


def _towers(
    run: Run, wanted: TowerRequest, frozen: tuple[str, ...], source: PairSource, resume: bool
) -> tuple[PairSpec, dict[str, Tower]]:
    if not resume:
        size = getattr(source.a, "image_size", 224)
        return build_towers(wanted, source.kinds, frozen, size)
    module = wanted.image_tower if isinstance(wanted.image_tower, nn.Module) else None
    spec = read_spec(run)
    if frozen not in ((), spec.frozen):
        was = ",".join(spec.frozen) or "nothing"
        raise UserError(
            f"freeze: {run.folder} was started with {was}, not {','.join(frozen)}; "
            "leave it out to go on, or name another --out"
        )
    if spec.custom and module is None:
        raise UserError("image-tower: the run has one of your own; pass it from Python again")
    towers = rebuild_towers(spec, pair_files(run)["text"], module)
    load_frozen(run, towers)
    return spec, towers


def _sample(source: PairSource, inputs: _Sides) -> Held:
    """A fixed sample of the training pairs, where none are held back."""
    rows = np.sort(np.argsort(source.a.ids, kind="stable")[:SCORED])
    return Held(source, *inputs.plain(source), rows)


def _tell(plan: PairPlan, device: str, spec: PairSpec, towers: dict[str, Tower]) -> None:
    say(f"{plan.request.method} for {plan.request.epochs} epochs on {device}")
    for name, value, reason in plan.reasons:
        say(f"  {name:<15} {value:<12} {reason}")
    for kind, tower in towers.items():
        body, head = (sum(p.numel() for p in m.parameters()) for m in (tower.body, tower.head))
        state = "frozen" if kind in spec.frozen else "trained"
        say(f"  {kind} tower: {body / 1e6:.2f} M parameters, {state}; head {head / 1e6:.2f} M")


def _kind(side: Any) -> str:
    return "text" if hasattr(side, "texts") else "image"


def _named(data: Any) -> str | None:
    """How `sogclr search` finds the data again, from whichever folder it is called."""
    if not isinstance(data, str | Path):
        return None
    is_path = os.path.exists(data) or str(data).endswith(".tar")  # or a pattern of shards
    return os.path.abspath(data) if is_path else str(data)
