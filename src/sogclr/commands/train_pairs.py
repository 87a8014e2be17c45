"""Train on pairs after the plan: launch the processes, build the towers, write the run's start."""

from typing import Any

import torch

from ..common.console import say, setting_line
from ..data.pair_source import PairSource
from ..data.tar.stream_pairs import PairStream
from ..distributed.connect import Facts, digest_of, option_facts
from ..distributed.launch import start
from ..models.build_towers import tokenizer_of
from ..models.recompute import recompute_blocks
from ..models.text_lengths import choose_texts_of_pairs, describe_cut
from ..models.towers import PairModel, PairSpec, Tower
from ..planning.derive import Reasons
from ..planning.pairs import PairPlan
from ..planning.settings_pairs import AlignArguments, PairSettings
from ..runs.data_address import data_address
from ..runs.folder import Run
from ..runs.towers import write_start
from ..training.build_pairs import build_model, build_training, open_towers
from ..training.normalizer_error import stored_bytes
from ..training.pair_inputs import PairInputs
from .result import Result, build_trainer, checkpoint_bytes, train_to_end

__all__ = ["bytes_on_disk", "print_towers", "train_pairs"]


def train_pairs(
    arguments: AlignArguments,
    given: PairSettings,
    source: PairSource | PairStream,
    validation: PairSource | None,
    plan: PairPlan,
    frozen: tuple[str, ...],
    run: Run,
    device: str,
    resume: bool,
) -> Result:
    """Train to the end, or until a signal asks to stop.

    Args:
        arguments: All arguments, of which those on storage and processes are used.
        given: The settings that were given.
        source, validation: The pairs to train on, and those held back.
        plan: The settings of the run, all with values.
        frozen: The kinds of towers that are not trained.
        run: The claimed folder.
        device: "cpu", "cuda" or "mps".
        resume: Whether to go on from the checkpoint in the folder.
    """
    # Processes wait for each other here: until now they read files that the first one may change.
    fabric = start(
        device,
        plan.precision,
        shard_model=arguments.shard_model,
        process_timeout=arguments.process_timeout,
        facts=_facts({**given.as_dict(), "freeze": frozen}, source, validation, plan, resume),
    )
    torch.manual_seed(plan.request.seed)
    spec, towers = open_towers(run, given, frozen, source, resume)
    model = build_model(spec, towers, plan, None if resume else given.dropout)
    if arguments.checkpoint_activations:
        recompute_blocks(*(t.body for kind, t in towers.items() if kind not in spec.frozen))
    tokenizer = tokenizer_of(spec, towers, run.text if resume else None)
    if fabric.is_global_zero:
        print_towers(plan, source, validation, spec, towers, tokenizer)
        run.require_space(bytes_on_disk(source, plan, spec, towers, frozen, model))
        if not resume:
            write_start(run, spec, towers, tokenizer)
    inputs = PairInputs(spec, towers, tokenizer, plan, fabric.device)
    with fabric.rank_zero_first():  # The others then find the features that the first one caches.
        task, schedule = build_training(source, model, plan, inputs, validation, fabric.autocast)
    trainer = build_trainer(fabric, task, schedule, plan.recipe, run, arguments, resume)
    if not resume:
        # Only this checkpoint holds the weights that the trained towers came with. Settings
        # come last: a folder with settings is a run that can be resumed.
        trainer.save()
        if fabric.is_global_zero:
            run.write_settings(
                {
                    "kind": "pairs",
                    "data": data_address(arguments.data),
                    "val": data_address(arguments.val),
                    "freeze": list(frozen),
                    "asked": given.as_dict(),
                    "resolved": plan.resolved().as_dict(),
                    "reasons": plan.reasons,
                }
            )
    return train_to_end(trainer)


def _facts(
    options: dict[str, Any],
    source: PairSource | PairStream,
    validation: PairSource | None,
    plan: PairPlan,
    resume: bool,
) -> Facts:
    """Collect what must be equal in all processes: options, data, derived values, checkpoint."""
    facts = option_facts(options)
    for what, pairs in (("", source), ("held-back ", validation)):
        if isinstance(pairs, PairSource):
            a, b = pairs.a, pairs.b
            arrays = a.ids, a.marks, b.ids, pairs.start, pairs.partners
            facts[f"the {what}pairs' first sides"] = digest_of(*arrays)
        else:
            facts[f"the {what}shards"] = "none" if pairs is None else digest_of(pairs.ids)
    return {
        **facts,
        **option_facts(plan.resolved().as_dict(), "the derived "),
        "the checkpoint in --out": "there" if resume else "missing",
    }


def print_towers(
    plan: PairPlan,
    source: PairSource | PairStream,
    validation: PairSource | None,
    spec: PairSpec,
    towers: dict[str, Tower],
    tokenizer: Any,
) -> None:
    """Print the towers and what they read, and add both to the reasons of the plan."""
    explained = _explain_towers(plan.request, source, spec, towers, tokenizer)
    for name, value, reason in explained:
        say(setting_line(name, value, reason))
    plan.reasons.extend(explained)
    if validation is not None:
        say(f"  held back: {describe_cut(tokenizer, _texts_of(validation))[1]}")


def _explain_towers(
    request: PairSettings,
    source: PairSource | PairStream,
    spec: PairSpec,
    towers: dict[str, Tower],
    tokenizer: Any,
) -> list[tuple[str, str, str]]:
    """Explain the towers, the size of their images, and which share of the texts is cut."""
    reasons = Reasons()
    named = {"image": request.image_tower, "text": request.text_tower}
    for kind, tower in towers.items():
        name = request.model or named[kind] or "small"
        shown = name if isinstance(name, str) else "your own"
        body, head = (sum(p.numel() for p in m.parameters()) for m in (tower.body, tower.head))
        state = "frozen" if kind in spec.frozen else "trained"
        remark = f"{body / 1e6:.2f} M parameters, {state}; head {head / 1e6:.2f} M"
        reasons.note(f"{kind} tower", shown, remark)
    if "image" in towers:
        reason = f"at most that for the small image tower; the data has {source.image_size} px"
        if request.model or request.image_tower:
            reason = "as the image tower takes them"
        reasons.explain("image size", request.image_size, f"{spec.image_size} px", reason)
    is_named = request.model is not None or request.text_tower is not None
    origin = "as many as the text tower takes" if is_named else "usual for the small text tower"
    if request.context_length is not None:
        origin = "as given"
    _, cut = describe_cut(tokenizer, _texts_of(source))
    reasons.note("context length", f"{tokenizer.context_length} tokens", f"{origin}; {cut}")
    return reasons.lines


def _texts_of(source: PairSource | PairStream) -> list[list[str]]:
    """Choose texts of each side, whose tokens are counted."""
    if isinstance(source, PairStream):
        return [source.first_captions]
    return choose_texts_of_pairs(source)


def bytes_on_disk(
    source: PairSource | PairStream,
    plan: PairPlan,
    spec: PairSpec,
    towers: dict[str, Tower],
    frozen: tuple[str, ...],
    model: PairModel,
) -> int:
    """Estimate the bytes that the run writes to disk."""
    bodies = sum(p.numel() * p.element_size() for kind in frozen for p in towers[kind].parameters())
    table_rows = plan.request.table_rows
    rows = sum(source.sizes) if table_rows is None else 2 * table_rows
    return bodies + checkpoint_bytes(model, rows, stored_bytes(plan.batch_size, spec.width))
