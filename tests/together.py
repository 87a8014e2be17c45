"""A run as a process of several sees it: `python tests/together.py OUT EPOCHS [--resume]`.

Without batch normalization, which every process does over its own share on a CPU.
"""

import sys

import numpy as np
import torch
from torch import nn

import sogclr
import sogclr.pretraining


def main(out, epochs, resume):
    sogclr.pretraining.build_projector = lambda width: nn.Linear(width, 16)
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 32), nn.GELU(), nn.Linear(32, 16))
    images = np.random.default_rng(0).integers(0, 255, (101, 8, 8, 3), dtype=np.uint8)
    sogclr.pretrain(
        images,
        out,
        encoder=encoder,
        batch_size=12,
        accumulate=2,
        epochs=epochs,
        device="cpu",
        precision="32-true",
        checkpoint_seconds=0,
        resume=resume,
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), "--resume" in sys.argv)
