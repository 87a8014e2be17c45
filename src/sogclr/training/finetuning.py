"""Train an encoder and a head on labelled images: the loop of `sogclr.finetune`.

A checkpoint is written after each epoch, and after the current step when a signal asks to stop.
Order and views are functions of (seed, epoch, id), so a resumed run does the same steps.
"""

import json
import time
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor

from ..common.console import say
from ..common.errors import UserError, one_line
from ..common.stored_fields import ANOTHER_VERSION, require_type
from ..data.batches.loaders import Batch, view_batches
from ..data.batches.schedule import ChosenSchedule
from ..data.choose_labels import LabelledImages
from ..data.views.pipeline import encoder_inputs
from ..distributed.connect import digest_of
from ..models.classifier import ImageClassifier
from ..planning.finetune_plan import WEIGHT_DECAY, FinetunePlan
from ..runs.folder import Run
from ..runs.stored import atomically
from .loop import MISFITS
from .optimizer import build_schedule
from .progress import RunProgress, latest_scores
from .stop_signals import watch_stop_signals

__all__ = ["ClassifierTrainer"]


class ClassifierTrainer:
    """The training of a classifier in progress.

    Args:
        fabric: device and precision.
        model: the classifier, whose head has been fitted already.
        images: the labelled images.
        plan: the settings, all with values.
        run: the claimed folder.
    """

    def __init__(
        self,
        fabric: Fabric,
        model: ImageClassifier,
        images: LabelledImages,
        plan: FinetunePlan,
        run: Run,
    ) -> None:
        self.fabric, self.model, self.images, self.plan = fabric, model, images, plan
        self.labels, self.run = torch.from_numpy(images.labels), run
        self.schedule = ChosenSchedule(
            images.source.ids, images.rows, plan.batch_size, plan.epochs, plan.request.seed
        )
        optimizer = _build_optimizer(model, plan)
        total = self.schedule.total_steps
        self.learning_rates = build_schedule(optimizer, total, warmup=total // 10)
        self.wrapped: Any = fabric.setup_module(model)
        self.optimizer: Any = fabric.setup_optimizers(optimizer)
        self.progress = RunProgress(total, plan.epochs, lambda row: [f"loss {row['loss']:.3f}"])
        self.step = 0
        # At least twice an epoch, so that a long one shows the time left.
        self.log_every = max(1, min(50, self.schedule.steps_per_epoch // 2))
        self.rows: list[dict[str, Any]] = []
        self._skipped: set[str] = set()
        self._forget_epoch()

    def train(self) -> bool:
        """Train to the end, or until a signal asks to stop.

        Returns:
            Whether the training is complete.

        Raises:
            UserError: the loss is no longer finite, no image of an epoch can be read, or the disk
                is full. The last checkpoint stays intact.
        """
        self.schedule.start_step = self.step
        loader = view_batches(
            self.images.source,
            self.schedule,
            image_size=self.model.spec.image_size,
            crop_min=self.plan.views.crop_min or 0.0,
            workers=self.plan.workers,
            pin_memory=self.fabric.device.type == "cuda",
            views=1,
        )
        self.model.train()
        with (
            watch_stop_signals() as stop,
            self.progress.showing(self.step, latest_scores(self.rows)),
        ):
            self._started = time.monotonic()
            for batch in loader:
                self.take_step(batch)
                epoch_ends = self.step % self.schedule.steps_per_epoch == 0
                if epoch_ends or stop.received or self.step % self.log_every == 0:
                    self._log(epoch_ends)
                if epoch_ends or stop.received:
                    self._save()
                if stop.received:
                    break
        self.model.eval()
        return self.step == self.schedule.total_steps

    def take_step(self, batch: Batch) -> None:
        """Do one step of the optimizer; does not wait for the device."""
        for name, reason in batch.unreadable:
            if name not in self._skipped:
                self._skipped.add(name)
                say(f"skipped {name}: {reason} (training goes on, {len(self._skipped)} so far)")
        self.learning_rates.step_update(self.step)
        rows = batch.micro_batch.rows
        # Batch normalization needs two images.
        if len(rows) > 1:
            device, spec, views = self.fabric.device, self.model.spec, self.plan.views
            crops = batch.crops.to(device, non_blocking=True)
            images = encoder_inputs(crops, batch.draws, views, spec.mean, spec.std)
            truth = self.labels[rows].to(device, non_blocking=True)
            logits: Tensor = self.wrapped(images)
            loss = F.cross_entropy(logits, truth)
            self.fabric.backward(loss)
            self.optimizer.step()
            self.optimizer.zero_grad()
            right = (logits.detach().argmax(dim=1) == truth).sum()
            self._losses.append(loss.detach() * len(rows))
            self._right.append(right)
            self._seen += len(rows)
        self.step += 1
        self.progress.advance(self.step)

    def _log(self, epoch_ends: bool) -> None:
        """Report the current epoch so far; waits for the device.

        Args:
            epoch_ends: whether the line belongs to metrics.jsonl, and another epoch begins.
        """
        epoch = self.step / self.schedule.steps_per_epoch
        if not self._seen:
            if epoch_ends:
                raise UserError(f"data: no image of epoch {epoch:g} could be read; restore them")
            return
        if not bool(torch.stack(self._losses).isfinite().all()):
            raise UserError(
                f"step {self.step}: the loss is not finite; start again in another --out with a "
                "lower --learning-rate, or with --precision 32-true"
            )
        row = {
            "step": self.step,
            "epoch": round(epoch, 4),
            "loss": float(torch.stack(self._losses).sum()) / self._seen,
            "training accuracy": int(torch.stack(self._right).sum()) / self._seen,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "samples_per_second": round(self._seen / (time.monotonic() - self._started), 1),
        }
        every = max(1, self.plan.epochs // 10)
        milestone = epoch_ends and (epoch % every == 0 or epoch == self.plan.epochs)
        self.progress.show(row, milestone)
        if epoch_ends:
            self.rows.append(row)
            self._forget_epoch()

    def _forget_epoch(self) -> None:
        self._losses: list[Tensor] = []
        self._right: list[Tensor] = []
        self._seen, self._started = 0, time.monotonic()

    def _save(self) -> None:
        """Write the curves and the checkpoint.

        Raises:
            UserError: the disk is full; the previous checkpoint is intact.
        """
        text = "".join(json.dumps(row) + "\n" for row in self.rows)
        atomically(self.run.metrics, lambda path: path.write_text(text, encoding="utf-8"))
        state: dict[str, Any] = {
            "step": self.step,
            "data": self._digest(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rows": list(self.rows),
            "losses": [float(loss) for loss in self._losses],
            "right": [int(right) for right in self._right],
            "seen": self._seen,
            "rng": torch.get_rng_state(),
        }
        if self.fabric.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state()
        self.run.write_checkpoint(state)

    def _digest(self) -> str:
        """Identify the images that are trained on, their content and their labels."""
        source, rows = self.images.source, self.images.rows
        return digest_of(source.ids[rows], source.marks[rows], self.images.labels[rows])

    def restore(self) -> None:
        """Load the checkpoint.

        Raises:
            UserError: it cannot be read or does not fit, or the labelled images have changed: what
                was learned cannot be tested on images that were trained on.
        """
        state = self.run.read_checkpoint()
        try:
            if state["data"] != self._digest():
                raise UserError(
                    f"data: the labelled images are not those that {self.run.folder} was started "
                    "with; give the same, or start again with another --out"
                )
            require_type(state["rows"], list[dict[str, int | float]], "rows of metrics")
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            device = self.fabric.device
            self._losses = [torch.tensor(loss, device=device) for loss in state["losses"]]
            self._right = [torch.tensor(right, device=device) for right in state["right"]]
            self.step, self.rows, self._seen = state["step"], state["rows"], state["seen"]
            torch.set_rng_state(state["rng"])
            if device.type == "cuda" and "cuda_rng" in state:  # absent if saved on a CPU
                torch.cuda.set_rng_state(state["cuda_rng"])
        except MISFITS as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else one_line(error)
            raise UserError(
                f"run: {self.run.checkpoint} does not fit this run ({what}); {ANOTHER_VERSION}"
            ) from error


def _build_optimizer(model: ImageClassifier, plan: FinetunePlan) -> torch.optim.Optimizer:
    """Build AdamW with a learning rate of its own for the head.

    Biases and normalization layers have no weight decay.
    """
    from timm.optim import param_groups_weight_decay

    groups: list[dict[str, Any]] = []
    for part, rate in ((model.encoder, plan.learning_rate), (model.head, plan.head_learning_rate)):
        own = param_groups_weight_decay(part, WEIGHT_DECAY)
        groups += [{**group, "lr": rate} for group in own if group["params"]]
    return torch.optim.AdamW(groups, fused=True)
