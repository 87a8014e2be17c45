"""A run as a process of several sees it: `python tests/together.py OUT EPOCHS [--resume]`,
with `--stream URL METHOD` on shards, with `--stop STEP` no further than that.

Without batch normalization, which every process does over its own share on a CPU.
"""

import argparse
from unittest.mock import patch

import numpy as np
import torch
from stopping import stop_after
from torch import nn

import sogclr

SAMPLES, ROWS = 101, 150


def main(out, epochs, resume=False, stream=None):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 32), nn.GELU(), nn.Linear(32, 16))
    if stream is None:
        data = np.random.default_rng(0).integers(0, 255, (SAMPLES, 8, 8, 3), dtype=np.uint8)
        numbers = {}
    else:
        data, method = stream
        rows = ROWS if method == "sogclr" else None
        numbers = {"method": method, "epoch_samples": SAMPLES, "table_rows": rows}
    with patch("sogclr.pretraining.build_projector", lambda width: nn.Linear(width, 128)):
        return sogclr.pretrain(
            data,
            out,
            encoder=encoder,
            image_size=8,
            batch_size=12,
            accumulate=2,
            epochs=epochs,
            device="cpu",
            precision="32-true",
            checkpoint_seconds=0,
            resume=resume,
            **numbers,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("epochs", type=int)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--stream", nargs=2)
    parser.add_argument("--stop", type=int)
    asked = parser.parse_args()
    if asked.stop is not None:
        stop_after(asked.stop)
    main(asked.out, asked.epochs, asked.resume, asked.stream)
