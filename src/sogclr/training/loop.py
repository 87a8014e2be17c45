"""The training loop.

One step: a batch from the loader, forward pass and loss by the task, optimizer. Nothing in a
step waits for the device; the host reads results at log points only, and that is where ids and
features are checked, before anything is saved.
"""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ..common.console import say
from ..common.errors import UserError
from ..data.batches.loaders import Epochs
from ..distributed.exchange import agree
from ..distributed.sharded_model import are_sharded, as_shards, optimizer_as_shards, told_of, whole
from ..planning.recipe import Recipe, build_optimizer, build_schedule
from ..runs.folder import Run
from .cuda_graphs import CapturedWork
from .monitor import Monitor
from .task import Outcome, Task

__all__ = ["Trainer", "can_capture"]


class Trainer:
    """A run in progress.

    Args:
        fabric: device and precision.
        task: what is learned from what.
        batches: which samples make up each step.
        recipe: of the optimizer.
        run: where to keep it.
        checkpoint_seconds: at least this long between checkpoints.
    """

    def __init__(
        self,
        fabric: Fabric,
        task: Task,
        batches: Epochs,
        recipe: Recipe,
        run: Run,
        checkpoint_seconds: float,
    ) -> None:
        self.fabric, self.task, self.batches, self.run = fabric, task, batches, run
        self.checkpoint_seconds = checkpoint_seconds
        if fabric.world_size > 1 and fabric.device.type == "cuda":
            task.model = nn.SyncBatchNorm.convert_sync_batchnorm(task.model)
        self.sharded = are_sharded(fabric)
        if not self.sharded:  # parts of weights are rows of them, as they are numbered
            task.model.to(memory_format=torch.channels_last)
        self.plain_model = task.model
        self.loss = task.loss.to(fabric.device)
        self.model = fabric.setup_module(task.model)
        if self.sharded:
            say(told_of(task.model))
        optimizer = build_optimizer(task.model, self.loss, recipe)
        self.optimizer: Any = fabric.setup_optimizers(optimizer)
        warmup = min(10 * batches.steps_per_epoch, batches.total_steps // 10)
        self.schedule = build_schedule(optimizer, batches.total_steps, warmup)
        self.monitor = Monitor(run, batches.total_steps)
        self.step = 0
        captured = task.static and can_capture(fabric)
        self.captured = CapturedWork(self._learn, fabric.device) if captured else None
        if fabric.world_size > 1:
            self._seed_own()
        # Every 50 steps, and often enough that short epochs have a curve.
        self.log_every = max(1, min(50, batches.steps_per_epoch // 2))

    def restore(self) -> None:
        """Go on from the checkpoint; changed data keeps what is known of its samples.

        Raises:
            UserError: no readable checkpoint, or one of another data set.
        """
        # Of what is sharded each process needs a part.
        state = self.run.read_checkpoint(mapped=self.sharded)
        if self.sharded:
            state["model"] = as_shards(state["model"], self.plain_model)
            state["optimizer"] = optimizer_as_shards(state["optimizer"], self.optimizer)
        told = self.task.restore(state, self.run)
        self.optimizer.load_state_dict(state["optimizer"])
        if told is None:
            self.step = state["step"]
        else:
            # Epochs have another number of steps now: go on at the same share of the run.
            self.step = round(state["step"] / state["total_steps"] * self.batches.total_steps)
            say(told)
        self.monitor.restore(state["monitor"], self.fabric.device)
        if self.fabric.world_size > 1:
            self._seed_own()
            return
        torch.set_rng_state(state["rng"])
        if self.fabric.device.type == "cuda" and "cuda_rng" in state:  # none if saved on a CPU
            torch.cuda.set_rng_state(state["cuda_rng"])

    def _seed_own(self) -> None:
        """Processes that share a batch must not drop out the same features of each share."""
        torch.manual_seed(hash((self.batches.seed, self.step, self.fabric.global_rank)))

    def save(self) -> None:
        """Write the checkpoint and the model. All processes call it, and the first one does it.

        Raises:
            UserError: the disk is full; the previous checkpoint is intact.
            IndexError: the table met invalid ids.
        """
        first = self.fabric.is_global_zero
        loss = self.loss.state_dict()  # of which each may hold a part
        model, optimizer = self.plain_model.state_dict(), self.optimizer.state_dict()
        if self.sharded:
            model, optimizer = whole(model, kept=first), whole(optimizer, kept=first)
        if not first:
            return
        state: dict[str, Any] = {
            "step": self.step,
            "total_steps": self.batches.total_steps,
            "model": model,
            "optimizer": optimizer,
            "loss": loss,
            "data": self.task.identity(),
            "monitor": self.monitor.state(),
            "rng": torch.get_rng_state(),
        }
        if self.fabric.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state()
        self.run.write_checkpoint(state)
        self.task.write_model(self.run, model)

    def train(self) -> bool:
        """Run to the end, or until asked to stop.

        Returns:
            Whether the run is complete.

        Raises:
            UserError: features are no longer finite (names the step and the samples), or the
                disk is full. The last checkpoint is from before.
        """
        self.batches.start_step = self.step
        loader = self.task.loader(self.batches, pin_memory=self.fabric.device.type == "cuda")
        self.model.train()
        self.optimizer.zero_grad()
        last_save = time.monotonic()
        with _stop_signals() as stop, self.monitor.showing(self.step):
            for batch in loader:
                self._accumulate(batch)
                if not batch.plan.last:
                    continue
                self._step(batch.plan.step)
                stopping = self._anyone(bool(stop))
                epoch_ends = self.step % self.batches.steps_per_epoch == 0
                if epoch_ends or self.step % self.log_every == 0:
                    self._log(epoch_ends)
                    # By the clock of any: it takes all of them to save, and one that writes longer
                    # than the others.
                    if self._anyone(time.monotonic() - last_save >= self.checkpoint_seconds):
                        self.save()
                        last_save = time.monotonic()
                if stopping:
                    self.monitor.check_finite(self.task.names)
                    break
            self.save()
        return self.step == self.batches.total_steps

    def _accumulate(self, batch: Any) -> None:
        for name, reason in batch.unreadable:
            self.monitor.report_skipped(name, reason)
        plan = batch.plan
        if not len(plan.rows):
            if self.fabric.world_size > 1:
                raise UserError(
                    f"step {plan.step + 1}: nothing could be read of what a process was to see; "
                    "the last checkpoint is from before; restore the files and go on with --resume"
                )
            return
        work = self.captured
        outcome = self._eager(batch) if work is None else self._replayed(batch, work)
        self.monitor.observe(plan.step, torch.from_numpy(plan.rows), outcome)

    def _eager(self, batch: Any) -> Outcome:
        plan, copies = batch.plan, self.fabric.world_size > 1 and not self.sharded
        # Summed at the end, gradients are whole until then: as large as what sharding saves.
        with self.fabric.no_backward_sync(self.model, enabled=copies and not plan.last):
            outcome = self.task.forward(self.model, batch, self.fabric.device)
            self.fabric.backward(outcome.loss * plan.weight)
        return outcome

    def _replayed(self, batch: Any, work: CapturedWork) -> Outcome:
        inputs = *self.task.inputs(batch), torch.tensor(batch.plan.weight)
        return self.task.outcome(batch, work(*inputs))

    def _learn(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The part of a step that is captured: gradients are added to what is there."""
        *given, weight = inputs
        loss, *others = self.task.compute(self.model, *given)
        self.fabric.backward(loss * weight)
        return loss.detach(), *others

    def _step(self, step: int) -> None:
        self.schedule.step_update(step)
        self.optimizer.step()
        self.task.after_step()
        # A graph adds to gradients where they were when it was captured.
        self.optimizer.zero_grad(set_to_none=self.captured is None)
        self.step = step + 1
        self.monitor.advance(self.step)

    def _log(self, epoch_ends: bool) -> None:
        self.monitor.check_finite(self.task.names)
        self.task.loss.raise_for_invalid_ids()
        epoch = self.step / self.batches.steps_per_epoch
        scores = {}
        # Where weights are sharded, no process can compute without the others.
        scores_here = self.monitor.is_first or self.sharded
        if scores_here and epoch_ends and self._is_scored(round(epoch)):
            scores = self.task.score(self.fabric.device)
        rate = self.optimizer.param_groups[0]["lr"]
        self.monitor.log(self.step, epoch, loss=self.task.loss, learning_rate=rate, scores=scores)

    def _anyone(self, asked: bool) -> bool:
        """Whether any process was: they stop together."""
        shares = agree("auto", int(asked))
        return asked if shares is None else shares.total > 0

    def _is_scored(self, epoch: int) -> bool:
        every = max(1, self.batches.epochs // 10)
        return epoch % every == 0 or epoch == self.batches.epochs


def can_capture(fabric: Fabric) -> bool:
    """Whether steps can be CUDA graphs. DDP exchanges gradients from hooks of its own."""
    return fabric.device.type == "cuda" and fabric.world_size == 1


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collects Ctrl-C and SIGTERM, so that a step is finished and saved. A second one kills."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        say("stopping after this step; once more to stop at once")

    try:
        before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # signals belong to the main thread; elsewhere nobody presses Ctrl-C
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
