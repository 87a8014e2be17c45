"""Train several models side by side on the same views, each with its own loss over groups.

All models of a group of runs get the same initial weights, the same order and the same views, so
that the noise of these does not blur the differences between losses. On a GPU, the forward and
backward pass of each model is a CUDA graph on a stream of its own.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sogclr.common.options import Augmentation
from sogclr.data.randomness import shuffled, uniforms
from sogclr.data.views.draws import DRAWS, crop_boxes
from sogclr.data.views.pipeline import standardize
from sogclr.data.views.resident import crop_on_device
from sogclr.data.views.static import static_inputs, view_parameters
from sogclr.losses.base import ContrastiveLoss
from sogclr.models.encoders import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ContrastiveModel,
    build_encoder,
    build_projector,
    width_of,
)
from sogclr.planning.recipe import choose_recipe
from sogclr.training.optimizer import build_optimizer, build_schedule

__all__ = ["Learner", "Views", "build_model", "encode", "grouped_loss", "train"]

EAGER_STEPS = 3  # libraries choose their kernels in the first steps; a graph must not contain that
WARM_UP = 0.1  # share of the steps in which the learning rate rises
PART = 1_000  # images that are encoded at a time in evaluation


class Views:
    """Random views of images that stay on the device.

    Args:
        pixels: `(n, 3, S, S)` uint8 on the device.
        seed: determines order and views, together with the epoch.
    """

    def __init__(self, pixels: Tensor, seed: int) -> None:
        self.pixels, self.seed = pixels, seed
        self.ids = np.arange(len(pixels), dtype=np.uint64)
        self.size: int = pixels.shape[-1]
        self.augmentation = Augmentation().resolved(self.size)

    def order(self, epoch: int) -> np.ndarray:
        """Shuffle the rows of an epoch, `(n,)`."""
        return shuffled(self.seed, epoch, self.ids)

    def draw(self, rows: np.ndarray, epoch: int) -> Tensor:
        """Draw two views of the images in these m rows; first all first views.

        Returns:
            `(2m, 3, S, S)` float32, inputs of the encoder.
        """
        ids = self.ids[rows]
        draws = np.concatenate([uniforms(self.seed, epoch, ids, v, DRAWS) for v in (0, 1)])
        boxes = crop_boxes(draws, self.size, self.size, self.augmentation.crop_min or 0.0)
        parameters = view_parameters(draws, self.augmentation, self.size)
        images = self.pixels.index_select(0, self.send(np.tile(rows, 2)))
        crops = crop_on_device(images, self.send(boxes.astype(np.float32)), self.size)
        changes = self.send(parameters)
        return static_inputs(crops, changes, self.augmentation, IMAGENET_MEAN, IMAGENET_STD)

    def send(self, array: np.ndarray) -> Tensor:
        """Copy an array to the device without waiting."""
        tensor = torch.from_numpy(array)
        if self.pixels.is_cuda:
            tensor = tensor.pin_memory()
        return tensor.to(self.pixels.device, non_blocking=True)


def build_model(encoder: str, image_size: int, seed: int) -> ContrastiveModel:
    """Build encoder and projector; "half-resnet18" is a ResNet-18 of half width."""
    torch.manual_seed(seed)
    module = (
        half_resnet18() if encoder == "half-resnet18" else build_encoder(encoder, image_size)[0]
    )
    return ContrastiveModel(module, build_projector(width_of(module, image_size)))


def half_resnet18() -> nn.Module:
    """Build a ResNet-18 with half the channels and the usual stem for small images."""
    import timm

    encoder: Any = timm.create_model("resnet18", num_classes=0, channels=(32, 64, 128, 256))
    encoder.conv1 = nn.Conv2d(3, 32, 3, padding=1, bias=False)
    encoder.bn1 = nn.BatchNorm2d(32)
    encoder.maxpool = nn.Identity()
    first = encoder.layer1[0]
    first.conv1 = nn.Conv2d(32, 32, 3, padding=1, bias=False)
    first.downsample = None  # stem and first block have the same width
    return encoder


def grouped_loss(
    loss: ContrastiveLoss, first: Tensor, second: Tensor, index: Tensor, group: int
) -> Tensor:
    """Compute the mean of the losses over groups of `group` consecutive samples of the batch."""
    groups = zip(first.split(group), second.split(group), index.split(group), strict=True)
    return torch.stack([loss(*one) for one in groups]).mean()


class Learner:
    """A model with its loss and its optimizer.

    Args:
        model: on the device.
        loss: takes `(view1, view2, index)`.
        group: number of samples that a loss compares with each other.
        batch: number of samples of a step.
        steps: number of steps of the run.
    """

    def __init__(
        self, model: ContrastiveModel, loss: ContrastiveLoss, group: int, batch: int, steps: int
    ) -> None:
        self.device = next(model.parameters()).device
        self.model, self.loss, self.group = model.train(), loss.to(self.device), group
        self.optimizer = build_optimizer(model, loss, choose_recipe("adamw", batch, None, None))
        self.schedule = build_schedule(self.optimizer, steps, round(WARM_UP * steps))
        self.stream = torch.cuda.Stream() if self.device.type == "cuda" else None
        self.graph: torch.cuda.CUDAGraph | None = None

    def learn(self, step: int, views: Tensor, index: Tensor) -> None:
        """Take one step; on a GPU, `views` and `index` must have the same memory in every step."""
        if self.stream is None:
            self._forward_backward(views, index)
            self._update(step)
            return
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            if self.graph is not None:
                self.graph.replay()
            elif step < EAGER_STEPS:
                self._forward_backward(views, index)
            else:
                self.graph = self._record(views, index)
                self.graph.replay()
            self._update(step)

    def wait(self) -> None:
        """Let the current stream wait for this step."""
        if self.stream is not None:
            torch.cuda.current_stream().wait_stream(self.stream)

    def _forward_backward(self, views: Tensor, index: Tensor) -> None:
        # Graphs add to gradients at fixed addresses, so the memory of gradients is kept.
        self.optimizer.zero_grad(set_to_none=False)
        with _autocast(self.device):
            projections = self.model(views)[1]
        # float32: the small losses of groups need no kernels for half precision.
        first, second = projections.float().chunk(2)
        grouped_loss(self.loss, first, second, index, self.group).backward()

    def _update(self, step: int) -> None:
        self.schedule.step_update(step)
        self.optimizer.step()

    def _record(self, views: Tensor, index: Tensor) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, stream=self.stream):
            self._forward_backward(views, index)
        return graph


def _autocast(device: torch.device) -> AbstractContextManager[Any]:
    if device.type != "cuda":
        return nullcontext()
    return torch.autocast("cuda", torch.bfloat16)


def train(
    learners: Sequence[Learner],
    views: Views,
    batch: int,
    epochs: int,
    may_continue: Callable[[int, int], bool],
) -> bool:
    """Train all learners on the same views; the samples of an incomplete last batch wait.

    Args:
        learners: of models on the device of the views.
        views: of the training images.
        batch: number of samples of a step.
        epochs: number of passes over the images.
        may_continue: gets the number of steps done and of all steps.

    Returns:
        Whether training was completed.
    """
    total, shared = epochs * (len(views.ids) // batch), None
    for step, (rows, epoch) in enumerate(_batches(views, batch, epochs)):
        if not may_continue(step, total):
            return False
        latest = views.draw(rows, epoch), views.send(rows)
        if shared is None:
            shared = latest
        else:  # CUDA graphs read from the memory of the first batch
            for kept, new in zip(shared, latest, strict=True):
                kept.copy_(new)
        for learner in learners:
            learner.learn(step, *shared)
        for learner in learners:
            learner.wait()
    return True


def _batches(views: Views, batch: int, epochs: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the rows of each batch, and its epoch."""
    for epoch in range(epochs):
        order = views.order(epoch)
        for start in range(0, len(order) - batch + 1, batch):
            yield order[start : start + batch], epoch


@torch.no_grad()
def encode(model: ContrastiveModel, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Compute features `(n, w)` and projections `(n, d)`, float32 on the CPU.

    Args:
        model: encoder and projector.
        inputs: `(n, 3, S, S)` views, or uint8 images, which are standardized.
    """
    model.eval()
    results: list[tuple[Tensor, Tensor]] = []
    for part in inputs.split(PART):
        if part.dtype == torch.uint8:
            part = standardize(part.float() / 255, IMAGENET_MEAN, IMAGENET_STD)
        features, projections = model(part)
        results.append((features.float().cpu(), projections.float().cpu()))
    model.train()
    features, projections = (torch.cat(parts) for parts in zip(*results, strict=True))
    return features, projections
