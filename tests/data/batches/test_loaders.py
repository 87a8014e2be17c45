import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from sogclr.data.batches.loaders import center_batches, view_batches
from sogclr.data.batches.schedule import ShuffledSchedule
from sogclr.data.open_images import open_images

IDS = np.random.default_rng(0).integers(0, 2**63, 101).astype(np.uint64)


@pytest.mark.parametrize("batch_size", [2, 7, 50, 101])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_an_epoch_is_every_sample_once_in_even_batches(batch_size, accumulate):
    plan = ShuffledSchedule(IDS, batch_size, accumulate, epochs=3, seed=1)
    batches = list(plan)
    assert len(batches) == len(plan)
    for epoch in range(3):
        parts = [batch.rows for batch in batches if batch.epoch == epoch]
        assert sorted(np.concatenate(parts)) == list(range(101))
        sizes = [len(rows) for rows in parts]
        assert max(sizes) <= batch_size
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("accumulate", [1, 2, 5])
def test_weights_of_a_step_add_up_to_one_and_steps_count(accumulate):
    plan = ShuffledSchedule(IDS, 10, accumulate, epochs=2, seed=0)
    steps = {}
    for batch in plan:
        steps.setdefault(batch.step, []).append(batch)
    assert list(steps) == list(range(plan.total_steps))
    for group in steps.values():
        assert sum(batch.weight for batch in group) == pytest.approx(1)
        assert [batch.last for batch in group] == [False] * (len(group) - 1) + [True]


@pytest.mark.parametrize("start", [0, 1, 5, 6, 11])
def test_a_resumed_plan_is_the_rest_of_the_whole_one(start):
    whole = [b for b in ShuffledSchedule(IDS, 20, 2, epochs=4, seed=5) if b.step >= start]
    rest = ShuffledSchedule(IDS, 20, 2, epochs=4, seed=5)
    rest.start_step = start
    for a, b in zip(whole, rest, strict=True):
        assert (a.step, a.epoch, a.last) == (b.step, b.epoch, b.last)
        assert np.array_equal(a.rows, b.rows)


def _all(source, plan, workers):
    return list(view_batches(source, plan, image_size=8, crop_min=0.2, workers=workers))


def test_views_do_not_depend_on_workers_or_on_the_batch(make_folder):
    source = open_images(make_folder())
    alone = _all(source, ShuffledSchedule(source.ids, 1, 1, 1, seed=3), workers=0)
    by_row = {int(b.micro_batch.rows[0]): b for b in alone}
    for workers in (0, 2):
        for batch in _all(source, ShuffledSchedule(source.ids, 5, 1, 1, seed=3), workers):
            b = len(batch.micro_batch.rows)
            for i, row in enumerate(batch.micro_batch.rows.tolist()):
                assert torch.equal(batch.crops[[i, b + i]], by_row[row].crops)
                assert np.array_equal(batch.draws[[i, b + i]], by_row[row].draws)


def test_the_two_views_differ_and_so_do_epochs(make_folder):
    source = open_images(make_folder())
    first, second = _all(source, ShuffledSchedule(source.ids, 16, 1, 2, seed=3), workers=0)
    view1, view2 = first.crops.chunk(2)
    assert not torch.equal(view1, view2)
    assert not np.array_equal(first.draws, second.draws)


def test_what_cannot_be_decoded_is_skipped_and_named(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for i in range(6):
        Image.fromarray(pixels).save(tmp_path / f"{i}.jpg")
    (tmp_path / "2.jpg").write_bytes((tmp_path / "2.jpg").read_bytes()[:900])
    source = open_images(tmp_path)
    (batch,) = _all(source, ShuffledSchedule(source.ids, 6, 1, 1, seed=0), workers=0)
    assert sorted(batch.micro_batch.rows) == [0, 1, 3, 4, 5]
    assert batch.crops.shape == (10, 3, 8, 8)
    assert [name for name, _ in batch.unreadable] == ["2.jpg"]
    loader = center_batches(source, np.arange(6), image_size=8, batch_size=3, workers=0)
    assert [rows for rows, _, _ in loader] == [[0, 1], [3, 4, 5]]


HOLDING = """
import multiprocessing, sys
from sogclr.data.batches.loaders import ShuffledSchedule, view_batches
from sogclr.data.open_images import open_images

source = open_images("digits")
plan = ShuffledSchedule(source.ids, 512, 1, 50, seed=0)
batches = iter(view_batches(source, plan, image_size=8, crop_min=0.2, workers=2))
next(batches)
print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
sys.stdin.read()
"""


def _exist(processes):
    return [process for process in processes if os.path.exists(f"/proc/{process}")]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks processes up in /proc")
def test_workers_outlive_a_signal_to_their_group_but_not_their_trainer():
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    trainer = subprocess.Popen([sys.executable, "-c", HOLDING], **pipes)
    workers = trainer.stdout.readline().split()
    assert len(workers) == 2
    for worker in workers:
        os.kill(int(worker), signal.SIGTERM)
    time.sleep(0.5)
    assert _exist(workers) == workers
    trainer.kill()
    trainer.communicate()
    deadline = time.monotonic() + 60
    while _exist(workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = _exist(workers)
    for worker in left:
        os.kill(int(worker), signal.SIGKILL)
    assert not left, "they wait for ever"


TRAINER = """
import sys
from torch.utils.data import DataLoader
from sogclr.data.batches.loaders import _ignore_signals

if __name__ == "__main__":
    loader = DataLoader(
        list(range(100)),
        num_workers=2,
        worker_init_fn=_ignore_signals,
        multiprocessing_context=sys.argv[1],
    )
    batches = iter(loader)
    next(batches)
    print("started", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("start_method", ["fork", "forkserver"])
def test_workers_end_with_a_killed_trainer(tmp_path, start_method):
    script = tmp_path / "trainer.py"
    script.write_text(TRAINER)
    command = [sys.executable, str(script), start_method]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as trainer:
        assert trainer.stdout.readline() == b"started\n"
        trainer.kill()
        # All workers hold this pipe, so it ends when the last one does.
        assert trainer.stdout.read() == b""
