"""Train on images after the plan: launch the processes, build the task, write the run's start."""

import torch
from torch import nn

from ..data.image_source import ImageSource
from ..data.tar.stream import StreamSource
from ..distributed.connect import Facts, digest_of, option_facts
from ..distributed.launch import start
from ..models.encoders import PROJECTION
from ..models.recompute import recompute_blocks
from ..planning.images import Plan
from ..planning.settings_images import PretrainArguments
from ..runs.data_address import data_address
from ..runs.folder import Run
from ..training.build_images import build_training
from ..training.normalizer_error import stored_bytes
from ..training.task_images import ViewsTask
from ..training.views_picture import write_views_picture
from .result import Result, build_trainer, checkpoint_bytes, train_to_end

__all__ = ["bytes_on_disk", "train_images"]


def train_images(
    arguments: PretrainArguments,
    source: ImageSource | StreamSource,
    plan: Plan,
    module: nn.Module | None,
    run: Run,
    device: str,
    resume: bool,
) -> Result:
    """Train to the end, or until a signal asks to stop.

    Args:
        arguments: All arguments, of which those on storage and processes are used.
        source: The images.
        plan: The settings of the run, all with values.
        module: The user's own encoder; None if the plan names one.
        run: The claimed folder.
        device: "cpu", "cuda" or "mps".
        resume: Whether to go on from the checkpoint in the folder.
    """
    # `start` waits for all processes, so that all have read the files that the first one writes.
    fabric = start(
        device,
        plan.precision,
        shard_model=arguments.shard_model,
        process_timeout=arguments.process_timeout,
        facts=_facts(source, plan, resume),
    )
    torch.manual_seed(plan.request.seed)
    task, schedule = build_training(source, plan, module, fabric.device)
    if arguments.checkpoint_activations:
        recompute_blocks(task.model.encoder)
        task.fixed_work = False  # A CUDA graph cannot restore the random state of a block.
    if fabric.is_global_zero:
        run.require_space(bytes_on_disk(task, plan, len(source)))
    if not resume and fabric.is_global_zero:
        run.write_settings(
            {
                "data": data_address(arguments.data),
                "asked": plan.request.as_dict(),
                "resolved": plan.resolved().as_dict(),
                "reasons": plan.reasons,
            }
        )
        # Save the encoder before the trainer shards it.
        run.write_encoder(task.model.encoder.state_dict(), task.spec, initial=True)
        write_views_picture(source, plan, run.views)
    trainer = build_trainer(fabric, task, schedule, plan.recipe, run, arguments, resume)
    if not resume:
        task.prime(fabric.device)
    return train_to_end(trainer)


def _facts(source: ImageSource | StreamSource, plan: Plan, resume: bool) -> Facts:
    """Collect what must be equal in all processes: options, data, derived values, checkpoint."""
    if isinstance(source, ImageSource):
        data = {"the samples": digest_of(source.ids, source.marks)}
    else:
        data = {"the shards": digest_of(source.ids)}
    return {
        **option_facts(plan.request.as_dict()),
        **data,
        **option_facts(plan.resolved().as_dict(), "the derived "),
        "the checkpoint in --out": "there" if resume else "missing",
    }


def bytes_on_disk(task: ViewsTask, plan: Plan, samples: int) -> int:
    """Estimate the bytes that the run writes to disk; `samples` is the number of samples."""
    queue = (4 * PROJECTION + 9) * (plan.queue_size or 0)  # see `KeyQueue`
    extra = queue + stored_bytes(plan.batch_size, PROJECTION)
    return checkpoint_bytes(task.model, plan.request.table_rows or samples, extra)
