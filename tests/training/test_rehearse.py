"""A rehearsed step holds what a real one holds, and computes nothing."""

import numpy as np
import pytest
import torch
from torch import nn

from sogclr.data.batches.schedule import ShuffledSchedule
from sogclr.data.open_images import open_images
from sogclr.planning.images import plan_run
from sogclr.planning.settings_images import ImageSettings
from sogclr.training.build_images import build_training
from sogclr.training.optimizer import build_optimizer
from sogclr.training.rehearse import InPrecision, LiveBytes, rehearse

COUNT = 32


class Own(nn.Module):
    """An encoder of which all operations can be counted by hand."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3 * 16 * 16, 24)

    def forward(self, images):
        return self.layer(images.flatten(1))


@pytest.fixture
def make_task():
    """Builds a task on random images, its plan, and the function that loads a micro-batch."""

    def make(module=None, **settings):
        images = np.random.default_rng(0).integers(0, 256, (2 * COUNT, 16, 16, 3), dtype=np.uint8)
        source = open_images(images)
        name = "small" if module is None else "custom:Own"
        options = {"encoder": name, "image_size": 16, "batch_size": COUNT, "precision": "32-true"}
        plan = plan_run(ImageSettings(**(options | settings)), source, "cpu", 0)
        task, _ = build_training(source, plan, module, torch.device("cpu"))

        def load(size):
            return next(
                iter(task.loader(ShuffledSchedule(source.ids, size, 1, 1, 0), pin_memory=False))
            )

        return task, plan, load

    return make


def rehearsed(task, plan, load, count=COUNT, keeps_gradients=False):
    return rehearse(
        task, load(4), count, plan.precision, plan.recipe, keeps_gradients=keeps_gradients
    )


def peak_of_real_steps(task, plan, batch):
    """The most bytes that tensors hold in the second of two real steps."""
    task.model.train().to(memory_format=torch.channels_last)
    model = InPrecision(task.model, plan.precision)
    optimizer = build_optimizer(task.model, task.loss, plan.recipe)
    inputs = task.prepare(batch)
    live = LiveBytes()
    for tensor in (*task.model.parameters(), *task.model.buffers()):
        live.add(tensor)
    with live:
        for _ in range(2):
            live.peak = live.now
            task.forward(model, inputs, torch.device("cpu")).loss.backward()
            optimizer.step()
            task.after_step()
            optimizer.zero_grad()
    return live.peak


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"precision": "bf16-mixed"},
        {"optimizer": "lars"},
        {"optimizer": "sgd", "method": "simclr"},
        {"method": "moco", "queue_size": 64},
        {"encoder": "test_vit", "image_size": 32},
        {"norm": "group", "temperature_mode": "individual"},
    ],
)
def test_a_rehearsed_step_holds_the_bytes_of_a_real_one(make_task, settings):
    task, plan, load = make_task(**settings)
    real = peak_of_real_steps(task, plan, load(COUNT))
    task, plan, load = make_task(**settings)
    crops = load(COUNT).crops.nbytes  # made by the loader, before the step
    found = rehearsed(task, plan, load)
    assert found.peak - found.tables - crops == pytest.approx(real, rel=0.02)


def test_activations_grow_with_the_batch_and_nothing_else_does(make_task):
    once, twice = (rehearsed(*make_task(method="dcl"), count=count) for count in (COUNT, 2 * COUNT))
    assert twice.weights == once.weights
    assert twice.optimizer == once.optimizer
    assert twice.operations == 2 * once.operations
    # The gradients of the weights are among the activations, and do not grow.
    assert once.activations < twice.activations <= 2 * once.activations


def test_gradients_that_are_kept_are_added_to_the_activations(make_task):
    freed, kept = (rehearsed(*make_task(), keeps_gradients=keeps) for keeps in (False, True))
    task, *_ = make_task()
    gradients = sum(p.nbytes for p in task.model.parameters())
    assert kept.optimizer == freed.optimizer + gradients
    assert kept.peak >= freed.peak


def test_operations_are_those_of_the_matrix_products(make_task):
    task, plan, load = make_task(Own())
    found = rehearsed(task, plan, load)
    views, inputs, width, out = 2 * COUNT, 3 * 16 * 16, 24, 128
    first, second, third = inputs * width, width * width, width * out
    # Forward, gradient of the weights, and of the inputs except of the first layer.
    assert found.operations == 2 * views * (2 * first + 3 * second + 3 * third)


def test_the_table_takes_eight_bytes_a_sample(make_task):
    task, plan, load = make_task(normalizer="table")
    assert 8 <= rehearsed(task, plan, load).tables / (2 * COUNT) < 9


def test_what_is_made_is_counted_once_and_what_is_freed_no_more():
    with LiveBytes() as live:
        kept = torch.zeros(1000)
        assert live.now == 4000
        part = kept[:10].view(2, 5)  # the same memory
        assert live.now == 4000
        dropped = kept + 1
        assert live.now == 8000
        del dropped
        assert live.now == 4000
        del kept
        assert live.now == 4000
        del part
    assert (live.now, live.peak) == (0, 8000)


def test_peaks_of_small_and_large_tensors_are_kept_apart():
    with LiveBytes() as live:
        large = torch.zeros(2**23)
        del large
        small = torch.zeros(2**20)
    assert (live.large_peak, live.small_peak, live.now) == (2**25, 2**22, small.nbytes)
    assert live.peak == 2**25
