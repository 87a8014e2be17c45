"""The training loop.

One step: crops from the loader, the rest of the views on the device, encoder, loss with the
samples' ids, optimizer. Nothing in a step waits for the device; the host reads results at log
points only, and that is where ids and features are checked, before anything is saved.
"""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from .data.loading import Batch, BatchPlan, view_batches
from .data.source import ImageSource
from .data.views import photometric, standardize
from .evaluation.features import embed_rows
from .evaluation.knn import knn_accuracy
from .identity import carry_over, fingerprint
from .losses import DecoupledContrastiveLoss, GlobalContrastiveLoss, NTXentLoss, TwoViewLoss
from .models import ContrastiveModel, EncoderSpec
from .monitor import Monitor
from .optimization import build_optimizer, build_schedule
from .planning import Plan
from .progress import say
from .runs import Run

__all__ = ["Trainer", "build_loss"]

KNN_SAMPLES = 2_000  # enough for +-1 % and seconds on a CPU


def build_loss(plan: Plan, num_samples: int) -> TwoViewLoss:
    """The loss of the plan's method; all take `(view1, view2, index)`."""
    tau = plan.temperature
    if plan.request.method == "simclr":
        return NTXentLoss(tau)
    if plan.request.method == "dcl":
        return DecoupledContrastiveLoss(tau)
    return GlobalContrastiveLoss(
        num_samples,
        temperature=tau,
        gamma_min=plan.request.gamma_min,
        gamma_decay=plan.request.gamma_decay,
    )


class Trainer:
    """A run in progress.

    Args:
        fabric: device and precision.
        model: encoder and projector, initialized.
        spec: of the encoder.
        source: the data.
        plan: what to do.
        run: where to keep it.
        checkpoint_seconds: at least this long between checkpoints.
    """

    def __init__(
        self,
        fabric: Fabric,
        model: ContrastiveModel,
        spec: EncoderSpec,
        source: ImageSource,
        plan: Plan,
        run: Run,
        checkpoint_seconds: float,
    ) -> None:
        self.fabric, self.spec, self.source, self.plan, self.run = fabric, spec, source, plan, run
        self.checkpoint_seconds = checkpoint_seconds
        self.plain_model = model.to(memory_format=torch.channels_last)
        self.batches = BatchPlan(
            source.ids,
            plan.batch_size,
            plan.request.accumulate,
            plan.request.epochs,
            plan.request.seed,
        )
        optimizer = build_optimizer(model, plan.recipe)
        self.model, self.optimizer = fabric.setup(model, optimizer)
        warmup = min(10 * self.batches.steps_per_epoch, self.batches.total_steps // 10)
        self.schedule = build_schedule(optimizer, self.batches.total_steps, warmup)
        self.loss = build_loss(plan, len(source)).to(fabric.device)
        self.monitor = Monitor(run, self.batches.total_steps)
        self.step = 0
        # Every 50 steps, and often enough that short epochs have a curve.
        self.log_every = max(1, min(50, self.batches.steps_per_epoch // 2))

    def restore(self) -> None:
        """Go on from the checkpoint; a changed data folder keeps what is known of its samples.

        Raises:
            UserError: no readable checkpoint, or one of another data set.
        """
        state = self.run.read_checkpoint()
        self.plain_model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        loss_state, told = carry_over(state["loss"], state["data"], self.source, self.run.folder)
        self.loss.load_state_dict(loss_state)
        if told is None:
            self.step = state["step"]
        else:
            # Epochs have another number of steps now: go on at the same share of the run.
            self.step = round(state["step"] / state["total_steps"] * self.batches.total_steps)
            say(told)
        self.monitor.restore(state["monitor"], self.fabric.device)
        torch.set_rng_state(state["rng"])
        if self.fabric.device.type == "cuda" and "cuda_rng" in state:  # none if saved on a CPU
            torch.cuda.set_rng_state(state["cuda_rng"])

    def save(self) -> None:
        """Write the checkpoint and the encoder.

        Raises:
            UserError: the disk is full; the previous checkpoint is intact.
            IndexError: the table met invalid ids.
        """
        state: dict[str, Any] = {
            "step": self.step,
            "total_steps": self.batches.total_steps,
            "model": self.plain_model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "loss": self.loss.state_dict(),
            "data": fingerprint(self.source),
            "monitor": self.monitor.state(),
            "rng": torch.get_rng_state(),
        }
        if self.fabric.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state()
        self.run.write_checkpoint(state)
        self.run.write_encoder(self.plain_model.encoder, self.spec)

    def train(self) -> bool:
        """Run to the end, or until asked to stop.

        Returns:
            Whether the run is complete.

        Raises:
            UserError: features are no longer finite (names the step and the samples), or the
                disk is full. The last checkpoint is from before.
        """
        self.batches.start_step = self.step
        loader = view_batches(
            self.source,
            self.batches,
            image_size=self.plan.image_size,
            crop_min=self.plan.views.crop_min or 0.0,
            workers=self.plan.workers,
            pin_memory=self.fabric.device.type == "cuda",
        )
        self.model.train()
        self.optimizer.zero_grad()
        last_save = time.monotonic()
        with _stop_signals() as stop, self.monitor.showing(self.step):
            for batch in loader:
                self._accumulate(batch)
                if not batch.plan.last:
                    continue
                self._step(batch.plan.step)
                epoch_ends = self.step % self.batches.steps_per_epoch == 0
                if epoch_ends or self.step % self.log_every == 0:
                    self._log(epoch_ends)
                    if time.monotonic() - last_save >= self.checkpoint_seconds:
                        self.save()
                        last_save = time.monotonic()
                if stop:
                    self.monitor.check_finite(self.source.names)
                    break
            self.save()
        return self.step == self.batches.total_steps

    def _accumulate(self, batch: Batch) -> None:
        for name, reason in batch.unreadable:
            self.monitor.skipped(name, reason)
        rows = torch.from_numpy(batch.plan.rows)
        if not len(rows):
            return
        device = self.fabric.device
        # Elsewhere than on CUDA a copy may be read before it has arrived.
        crops = batch.crops.to(device, non_blocking=device.type == "cuda")  # (2b, 3, S, S)
        x = standardize(
            photometric(crops, batch.draws, self.plan.views), self.spec.mean, self.spec.std
        ).contiguous(memory_format=torch.channels_last)
        features, z = self.model(x)  # (2b, width), (2b, d)
        view1, view2 = z.chunk(2)
        loss = self.loss(view1, view2, rows)
        self.fabric.backward(loss * batch.plan.weight)
        self.monitor.observe(batch.plan.step, rows, features.detach(), z.detach(), loss.detach())

    def _step(self, step: int) -> None:
        self.schedule.step_update(step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step = step + 1
        self.monitor.advance(self.step)

    def _log(self, epoch_ends: bool) -> None:
        self.monitor.check_finite(self.source.names)
        self.loss.check()
        epoch = self.step / self.batches.steps_per_epoch
        knn = self._knn() if epoch_ends and self._is_knn_epoch(round(epoch)) else None
        rate = self.optimizer.param_groups[0]["lr"]
        self.monitor.log(self.step, epoch, learning_rate=rate, knn=knn)

    def _is_knn_epoch(self, epoch: int) -> bool:
        every = max(1, self.batches.epochs // 10)
        return self.source.labels is not None and (
            epoch % every == 0 or epoch == self.batches.epochs
        )

    def _knn(self) -> float:
        """Leave-one-out kNN accuracy on a fixed sample of the training images."""
        assert self.source.labels is not None
        rows = np.sort(np.argsort(self.source.ids, kind="stable")[:KNN_SAMPLES])
        embedding = embed_rows(
            self.plain_model.encoder,
            self.source,
            self.spec,
            rows,
            device=self.fabric.device,
            quiet=True,
        )
        labels = torch.from_numpy(self.source.labels[embedding.rows])
        return knn_accuracy(torch.from_numpy(embedding.vectors), labels)


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
