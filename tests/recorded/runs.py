"""Short seeded runs: their last metrics, and two numbers of every tensor that was trained."""

import json
import logging
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import adapter
import torch
from safetensors.torch import load_file
from torch import nn

from sogclr.commands import pretrain
from sogclr.distributed.launch import start

sys.path.append(str(Path(__file__).parents[1]))
from helpers.small_tables import COLOURS, write_pairs

# Not AdamW: it would make steps of the rounding of gradients that are zero.
ALWAYS = {"epochs": 2, "device": "cpu", "precision": "32-true", "workers": 0, "seed": 0}
ALWAYS["optimizer"] = "sgd"


class Encoder(nn.Module):
    """A small network in whatever precision its weights have."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        first, second = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, 2, 1)
        self.layers = nn.Sequential(
            first, nn.BatchNorm2d(16), nn.ReLU(), second, nn.BatchNorm2d(32), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images.to(self.layers[0].weight.dtype))


# In float64: batch normalization makes the rounding of float32 grow a thousandfold in 58 steps.
PRETRAIN = {**ALWAYS, "precision": "auto", "batch_size": 64, "image_size": 16}
ALIGN = {**ALWAYS, "batch_size": 8, "learning_rate": 3e-3}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "pretrain, sogclr": ("pretrain", {"method": "sogclr"}),
    "pretrain, simclr": ("pretrain", {"method": "simclr"}),
    "pretrain, dcl": ("pretrain", {"method": "dcl"}),
    "pretrain, moco": ("pretrain", {"method": "moco"}),
    "pretrain, recent": ("pretrain", {"recent": 32}),
    "pretrain, accumulate": ("pretrain", {"accumulate": 2}),
    "align, sogclr": ("align", {"method": "sogclr"}),
    "align, clip": ("align", {"method": "clip"}),
    "align, dcl": ("align", {"method": "dcl"}),
    "align, siglip": ("align", {"method": "siglip"}),
    "align, learned": ("align", {"tau": "learned"}),
    "align, learned with rho": ("align", {"tau": "learned", "rho": 0.5}),
    "align, individual": ("align", {"tau": "individual", "rho": 0.5}),
    "align, clip, learned": ("align", {"method": "clip", "tau": "learned"}),
    "align, candidates": ("align", {"candidates": 255.0}),
    "align, recent": ("align", {"recent": 11}),
    "align, accumulate": ("align", {"accumulate": 2}),
}
WORDS = (
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "picture", "very", *COLOURS,
    *"0123456789", *(f"##{digit}" for digit in "0123456789"),
)  # fmt: skip
MODEL = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8,
    },
    "text_cfg": {
        "context_length": 16, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1,
        "pool_type": "eos", "eos_id": 3,
    },
}  # fmt: skip


def prepare(folder: Path) -> None:
    """Write what runs on pairs start from: a table, and an open_clip model with few words."""
    from transformers import BertTokenizerFast

    write_pairs(folder / "table")
    (folder / "words").mkdir()
    (folder / "words.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(vocab=str(folder / "words.txt")).save_pretrained(folder / "words")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    text = {**MODEL["text_cfg"], "hf_tokenizer_name": str(folder / "words")}
    (folder / "model.json").write_text(json.dumps({**MODEL, "text_cfg": text}))


def compute_run(name: str, folder: Path) -> dict[str, Any]:
    """Train in a folder that was prepared.

    Returns:
        `metrics`; and `weights`, of each tensor its norm and its product with a random one.
    """
    verb, changes = RUNS[name]
    out, threads = folder / "runs" / name.replace(", ", "-"), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if verb == "pretrain":
            with patch.object(
                pretrain, "start", lambda kind, _, **options: start(kind, "64-true", **options)
            ):
                metrics = adapter.run(
                    verb, "digits", out, encoder=Encoder(), **{**PRETRAIN, **changes}
                )
        else:
            settings = {**ALIGN, "model": str(folder / "model.json"), **changes}
            metrics = adapter.run(verb, folder / "table" / "train.csv", out, **settings)
    finally:
        torch.set_num_threads(threads)
    weights = load_file(out / adapter.WEIGHTS[verb])
    return {"metrics": metrics, "weights": {key: _seen(weights[key]) for key in sorted(weights)}}


def _seen(weight: torch.Tensor) -> list[float]:
    flat = weight.double().flatten()
    draw = torch.Generator().manual_seed(flat.numel())
    other = torch.randn(flat.numel(), generator=draw, dtype=torch.float64)
    return [float(flat.norm()), float(flat @ other)]
