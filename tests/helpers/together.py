"""A run as a process of several sees it: `python tests/helpers/together.py OUT EPOCHS ...`.

Without batch normalization, which every process does over its own share on a CPU.
"""

import time
from argparse import ArgumentParser

import numpy as np
import pytest
import torch
from torch import nn

import sogclr
from helpers.interrupting import interrupt_after
from sogclr.common.environment import rank
from sogclr.runs.folder import Run
from sogclr.training import build_images

SAMPLES, ROWS = 101, 150


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.LayerNorm(15), nn.Linear(15, 31), nn.GELU())
        self.outer = nn.Linear(31, 15)

    def forward(self, x):
        return x + self.outer(self.inner(x))


def main(patch, out, epochs, stop_after=None, stream=None, write_seconds=0.0, **options):
    """`stream` is a pattern of shards, with as many images of 8 x 8 pixels, and a method."""
    if stop_after is not None:
        interrupt_after(patch, stop_after - 1)
    if write_seconds:
        write_checkpoint = Run.write_checkpoint

        def slowly(run, state):
            time.sleep(write_seconds)
            write_checkpoint(run, state)

        patch.setattr(Run, "write_checkpoint", slowly)
    patch.setattr(build_images, "build_projector", lambda width, norm: nn.Linear(width, 128))
    torch.manual_seed(rank())  # that of the first process counts
    layers = nn.Flatten(), nn.Linear(3 * 8 * 8, 15), Block(), Block()
    view = nn.Unflatten(1, (15, 1)), nn.Flatten()  # as pooling may return
    encoder = nn.Sequential(*layers, *view)
    if stream is None:
        data = labelled()
    else:
        data, method = stream
        options |= {"method": method, "epoch_samples": SAMPLES}
        options |= {"table_rows": ROWS} if method == "sogclr" else {}
    sogclr.pretrain(
        data,
        out,
        encoder=encoder,
        image_size=8,
        batch_size=12,
        accumulate=2,
        epochs=epochs,
        device="cpu",
        precision="32-true",
        **{"checkpoint_seconds": 0, **options},
    )


def labelled():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, SAMPLES)
    images = rng.integers(0, 255, (SAMPLES, 8, 8, 3), dtype=np.uint8)
    images[labels == 1, :4] //= 2
    return images, labels


if __name__ == "__main__":
    parser = ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("epochs", type=int)
    parser.add_argument("--stop-after", type=int)
    parser.add_argument("--stream", nargs=2)
    parser.add_argument("--write-seconds", type=float, default=0.0)
    parser.add_argument("--checkpoint-seconds", type=float, default=0.0)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--shard-model", action="store_true")
    main(pytest.MonkeyPatch(), **vars(parser.parse_args()))
