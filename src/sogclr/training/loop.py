"""The training loop.

One step: load micro-batches, run their forward and backward passes, then the optimizer. No step
waits for the device. The host reads results at log points only. There it also checks ids and
features, before anything is saved.
"""

import time
from collections.abc import Sequence
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from ..common.console import say
from ..common.errors import UserError, one_line
from ..common.stored_fields import ANOTHER_VERSION
from ..data.batches.schedule import Schedule
from ..distributed.exchange import agree
from ..distributed.sharded_model import choose_weights
from ..planning.callback import Callback, TrainingState
from ..planning.recipe import Recipe
from ..runs.folder import Run
from .cuda_graphs import GraphStep, can_use_graphs
from .moments import Moment, Moments
from .monitor import Monitor
from .optimizer import build_optimizer, build_schedule
from .step import EagerStep, StepRunner
from .stop_signals import watch_stop_signals
from .task import Task

__all__ = ["Trainer"]

# Errors of torch and Python if parts of a checkpoint have other names, types or shapes.
MISFITS = (LookupError, TypeError, ValueError, RuntimeError, AttributeError)


class Trainer:
    """A run in progress.

    Args:
        fabric: device, precision and processes.
        task: the model, the loss and their batches.
        schedule: the micro-batches of every step.
        recipe: optimizer, learning rate and weight decay.
        run: the run's folder.
        checkpoint_seconds: the least time between checkpoints.
        trackers: names of the run's trackers besides TensorBoard; None for those that it had.
        callbacks: the user's callbacks, which the first process calls.
    """

    def __init__(
        self,
        fabric: Fabric,
        task: Task,
        schedule: Schedule,
        recipe: Recipe,
        run: Run,
        checkpoint_seconds: float,
        *,
        trackers: tuple[str, ...] | None = (),
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.fabric, self.task, self.schedule, self.run = fabric, task, schedule, run
        self.checkpoint_seconds = checkpoint_seconds
        if fabric.world_size > 1 and fabric.device.type == "cuda":
            task.model = nn.SyncBatchNorm.convert_sync_batchnorm(task.model)
        task.loss.to(fabric.device)
        self.weights = choose_weights(fabric)
        self.model = self.weights.set_up(task.model)
        optimizer = build_optimizer(task.model, task.loss, recipe)
        self.optimizer: Any = fabric.setup_optimizers(optimizer)
        warmup = min(10 * schedule.steps_per_epoch, schedule.total_steps // 10)
        self.learning_rates = build_schedule(optimizer, schedule.total_steps, warmup)
        self.run_step: StepRunner = (
            GraphStep(fabric, task, self.model)
            if task.fixed_work and can_use_graphs(fabric)
            else EagerStep(fabric, task, self.model, self.weights)
        )
        self.monitor = Monitor(run, schedule.total_steps, schedule.epochs, trackers)
        state = TrainingState(run.folder, task.model, schedule.total_steps, schedule.epochs)
        called = callbacks if self.monitor.is_first else ()
        self.moments = Moments(called, state, fabric.device)
        self.step = 0
        self._seed_process()
        # Every 50 steps, and at least twice an epoch so that short epochs have a curve.
        self.log_every = max(1, min(50, schedule.steps_per_epoch // 2))

    def train(self) -> bool:
        """Train to the end, or until a signal asks to stop.

        Returns:
            Whether the run is complete.

        Raises:
            UserError: features are no longer finite (names the step and the samples), the disk is
                full, or a callback raised an error. The last checkpoint stays intact.
        """
        self.schedule.start_step = self.step
        loader = self.task.loader(self.schedule, pin_memory=self.fabric.device.type == "cuda")
        self.model.train()
        self.optimizer.zero_grad()
        last_save = time.monotonic()
        with watch_stop_signals() as stop, self.monitor.showing(self.step):
            self._call("on_train_start")
            self.moments.raise_failure()
            for batch in loader:
                self.add_gradient(batch)
                if not batch.micro_batch.last:
                    continue
                self.update_weights(batch.micro_batch.step)

                epoch_ends = self.step % self.schedule.steps_per_epoch == 0
                if epoch_ends or self.step % self.log_every == 0:
                    self.log(epoch_ends)
                    # Saving is collective, so save when any process's timer has expired.
                    if self._any_process(time.monotonic() - last_save >= self.checkpoint_seconds):
                        self.save()
                        last_save = time.monotonic()
                stopping = stop.received or self.moments.state.stopping
                if self._any_process(stopping):  # Weights that are not finite must not be saved.
                    self.monitor.check_finite(self.task.names)
                    break
            self.save()
            self._call("on_train_end")
            self.moments.raise_failure()
        return self.step == self.schedule.total_steps

    def add_gradient(self, batch: Any) -> None:
        """Add the gradient of a micro-batch; does not wait for the device."""
        for name, reason in batch.unreadable:
            self.monitor.report_skipped(name, reason)
        micro_batch = batch.micro_batch
        if len(micro_batch.rows):
            outcome = self.run_step(batch)
            self.monitor.observe(micro_batch.step, torch.from_numpy(micro_batch.rows), outcome)
        elif self.fabric.world_size > 1:
            raise UserError(
                f"step {micro_batch.step + 1}: a process could read none of its samples; the last "
                "checkpoint is from before this step; restore the files and go on with --resume"
            )

    def update_weights(self, step: int) -> None:
        """Take the optimizer step after the last micro-batch; does not wait for the device.

        Args:
            step: number of the step, from 0.
        """
        self.learning_rates.step_update(step)
        self.optimizer.step()
        self.task.after_step()
        self.optimizer.zero_grad(set_to_none=self.run_step.frees_gradients)
        self.step = step + 1
        self.monitor.progress.advance(self.step)

    def log(self, epoch_ends: bool) -> None:
        """Check and report the results since the last log point; waits for the device.

        Args:
            epoch_ends: whether the last step ended an epoch, so that scores may be due.
        """
        self.monitor.check_finite(self.task.names)
        self.task.loss.raise_for_invalid_ids()
        epoch = self.step / self.schedule.steps_per_epoch
        milestone = epoch_ends and self._is_scored(round(epoch))
        scores: dict[str, float] = {}
        # The first process scores for all, unless each holds only a part of the weights.
        scores_here = self.monitor.is_first or self.weights.are_sharded
        if scores_here and milestone:
            started = time.monotonic()
            scores = self.task.score(self.fabric.device)
            self.monitor.exclude(time.monotonic() - started)
        rate = self.optimizer.param_groups[0]["lr"]
        loss = self.task.loss
        row = self.monitor.log(
            self.step, epoch, loss=loss, learning_rate=rate, scores=scores, milestone=milestone
        )
        if row is not None:
            self._call("on_log", row)
        if epoch_ends:
            self._call("on_epoch_end")

    def _call(self, moment: Moment, metrics: dict[str, Any] | None = None) -> None:
        """Call the callbacks; their time does not count as training."""
        started = time.monotonic()
        epoch = self.step / self.schedule.steps_per_epoch
        self.moments.call(moment, self.step, epoch, metrics)
        self.monitor.exclude(time.monotonic() - started)

    def save(self) -> None:
        """Write the checkpoint and the model. All processes call it, and the first one writes.

        Raises:
            UserError: the disk is full; the previous checkpoint is intact.
            IndexError: the loss received invalid ids.
        """
        loss = self.task.loss.state_dict()  # Collective: processes may hold parts of the table.
        model = self.weights.full_state(self.task.model.state_dict())
        optimizer = self.weights.full_state(self.optimizer.state_dict())
        if not self.fabric.is_global_zero:
            return
        state: dict[str, Any] = {
            "step": self.step,
            "total_steps": self.schedule.total_steps,
            "epochs": self.schedule.epochs,
            "model": model,
            "optimizer": optimizer,
            "loss": loss,
            "data": self.task.fingerprints(),
            "monitor": self.monitor.state(),
            "rng": torch.get_rng_state(),
        }
        if self.fabric.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state()
        self.run.write_checkpoint(state)
        self.task.write_model(self.run, model)

    def restore(self) -> None:
        """Load the checkpoint. If the data has changed, samples with known ids keep their state.

        Raises:
            UserError: the checkpoint cannot be read or does not fit, or belongs to another data
                set.
        """
        state = self.run.read_checkpoint(mapped=self.weights.are_sharded)
        try:
            self._restore_from(state)
        except MISFITS as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else one_line(error)
            raise UserError(
                f"run: {self.run.checkpoint} does not fit this run ({what}); {ANOTHER_VERSION}"
            ) from error

    def _restore_from(self, state: dict[str, Any]) -> None:
        if not 0 <= state["step"] <= state["total_steps"]:
            raise ValueError(f"it is of step {state['step']} of {state['total_steps']}")
        state["model"] = self.weights.load_model(self.task.model, state["model"])
        state["optimizer"] = self.weights.load_optimizer(self.optimizer, state["optimizer"])
        epochs = state.get("epochs", self.schedule.epochs)
        message = self.task.restore(state, self.run)
        self.optimizer.load_state_dict(state["optimizer"])
        if message is None:
            self.step = state["step"]
        else:
            # The new schedule has other steps an epoch: go on at the same part of the epochs.
            epochs_done = state["step"] / state["total_steps"] * epochs
            self.step = round(epochs_done * self.schedule.steps_per_epoch)
            say(message)
        if epochs != self.schedule.epochs:
            self._say_extended(epochs)
        self.monitor.restore(state["monitor"], self.fabric.device)
        self._restore_random_state(state)

    def _say_extended(self, before: int) -> None:
        """Say how the learning rate goes on in a run that had `before` epochs until now."""
        self.learning_rates.step_update(self.step)
        rate = self.optimizer.param_groups[0]["lr"]
        say(
            f"{self.schedule.epochs:,} epochs instead of {before:,}: the learning rate goes on at "
            f"{rate:.3g}, as in a run of {self.schedule.epochs:,} epochs, and falls to 0"
        )

    def _restore_random_state(self, state: dict[str, Any]) -> None:
        if self.fabric.world_size > 1:
            self._seed_process()
            return
        torch.set_rng_state(state["rng"])
        if self.fabric.device.type == "cuda" and "cuda_rng" in state:  # absent if saved on a CPU
            torch.cuda.set_rng_state(state["cuda_rng"])

    def _seed_process(self) -> None:
        """Seed each of several processes differently, so that their dropout differs."""
        if self.fabric.world_size > 1:
            torch.manual_seed(hash((self.schedule.seed, self.step, self.fabric.global_rank)))

    def _any_process(self, value: bool) -> bool:
        """Tell whether `value` is true in any process; all processes call it."""
        # `agree` exchanges one number of each process, usually its number of samples.
        shares = agree("auto", int(value))
        return value if shares is None else shares.total > 0

    def _is_scored(self, epoch: int) -> bool:
        """Tell whether scores are due at the end of an epoch: about ten times a run."""
        every = max(1, self.schedule.epochs // 10)
        return epoch % every == 0 or epoch == self.schedule.epochs
