"""Forecast a run on pairs after the plan."""

from contextlib import AbstractContextManager
from dataclasses import replace

import torch

from ..data.batches.schedule import Schedule
from ..data.pair_source import PairSource
from ..data.tar.stream_pairs import PairStream
from ..models.build_towers import tokenizer_of
from ..models.recompute import recompute_blocks
from ..planning.pairs import PairPlan
from ..planning.settings_pairs import AlignArguments, PairSettings
from ..runs.folder import Run
from ..training.build_pairs import build_model, build_schedule, build_training, open_towers
from ..training.pair_inputs import RehearsedInputs
from .forecast import forecast
from .result import Result
from .train_pairs import bytes_on_disk, print_towers

__all__ = ["forecast_pairs"]


def forecast_pairs(
    arguments: AlignArguments,
    given: PairSettings,
    source: PairSource | PairStream,
    validation: PairSource | None,
    plan: PairPlan,
    frozen: tuple[str, ...],
    run: Run,
    device: str,
) -> Result:
    """Build what `train_pairs` would train, on the CPU, and forecast the run.

    Args:
        arguments: All arguments.
        given: The settings that were given.
        source, validation: The pairs to train on, and those held back.
        plan: The settings of the run, all with values.
        frozen: The kinds of towers that are not trained.
        run: The folder, of which nothing is written.
        device: The type of the planned device.
    """
    torch.manual_seed(given.seed)
    spec, towers = open_towers(run, given, frozen, source, resume=False)
    model = build_model(spec, towers, plan, given.dropout)
    if arguments.checkpoint_activations:
        recompute_blocks(*(t.body for kind, t in towers.items() if kind not in spec.frozen))
    tokenizer = tokenizer_of(spec, towers)
    print_towers(plan, source, validation, spec, towers, tokenizer)
    run.require_space(bytes_on_disk(source, plan, spec, towers, frozen, model))

    def autocast() -> AbstractContextManager:
        return torch.autocast("cpu", torch.bfloat16, enabled=plan.precision == "bf16-mixed")

    def make_schedule(size: int, accumulate: int) -> Schedule:
        return build_schedule(source, given, size, accumulate)

    here = replace(plan, workers=0)
    inputs = RehearsedInputs(spec, towers, tokenizer, here, torch.device("cpu"))
    task, _ = build_training(source, model, here, inputs, None, autocast)
    expected = forecast(task, plan, device, make_schedule, features=inputs.seconds)
    return Result(run.folder, False, {}, expected)
