"""Features of towers over a whole side; those of frozen towers are kept on disk."""

import os
import shutil
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..common.cache import cache_folder
from ..common.console import say, track
from ..common.errors import UserError
from ..data.image_source import ImageSource
from ..data.texts import Texts
from ..runs.folder import Run
from .tower_inputs import CenterImages, Inputs, Tokens
from .towers import PairSpec, weights_digest

__all__ = ["cached_features", "compute_features", "plain_inputs", "stored_embeddings"]

BATCH = 64


def plain_inputs(side: ImageSource | Texts, spec: PairSpec, tokenizer: Any) -> Inputs:
    """A side without augmentation."""
    if isinstance(side, Texts):
        return Tokens(side, tokenizer, padding_of(spec, tokenizer))
    return CenterImages(side, spec)


def padding_of(spec: PairSpec, tokenizer: Any) -> int | None:
    """The padding that may be cut off: Hugging Face towers mask it, open_clip's count on it."""
    if "hf_model_name" not in spec.text:
        return None
    plain = tokenizer.tokenizer
    return plain.pad_token_id if plain.padding_side == "right" else None


def compute_features(
    encode: Callable[[torch.Tensor], torch.Tensor],
    side: ImageSource | Texts,
    inputs: Inputs,
    device: torch.device,
    *,
    rows: np.ndarray | None = None,
    what: str | None = None,
    told: set[str] | None = None,
) -> np.ndarray:
    """Features of rows, `(n, w)` float32; NaN in rows that cannot be read or are not asked for.

    Args:
        encode: inputs on the device to features `(b, w)`.
        side: the rows.
        inputs: of them.
        device: where `encode` computes.
        rows: all by default.
        what: for the progress bar; without one if None.
        told: names of unreadable rows that are not reported, being known; grows by those that are.
    """
    order = np.arange(len(side)) if rows is None else np.unique(rows)
    if isinstance(side, Texts):  # short with short: less padding
        order = order[np.argsort(side.lengths[order], kind="stable")]
    parts = np.array_split(order, max(1, -(-len(order) // BATCH)))
    told = set() if told is None else told
    result: np.ndarray | None = None
    with torch.no_grad():
        for part in parts if what is None else track(parts, what, total=len(parts)):
            prepared = inputs.prepare(part, 0)
            for name, reason in prepared.unreadable:
                if name not in told:
                    say(f"skipped {name}: {reason}")
                told.add(name)
            if not prepared.readable.any():
                continue
            found = encode(inputs.to_model(prepared, device)).float().cpu().numpy()
            if result is None:
                result = np.full((len(side), found.shape[1]), np.nan, dtype=np.float32)
            result[part[prepared.readable]] = found
    if result is None:
        raise UserError("data: none of the images can be read")
    return result


def cached_features(
    body: nn.Module,
    kind: str,
    side: ImageSource | Texts,
    spec: PairSpec,
    tokenizer: Any,
    device: torch.device,
) -> np.ndarray:
    """Features of a frozen body, from disk if they were computed before; `(n, w)`, mapped.

    They are found again by what they depend on: the tower's structure and weights, its
    preprocessing, and the samples.
    """
    target = _cache_file(body, side, _preparation(kind, spec, tokenizer))
    if target.is_file():
        say(f"  features of {len(side):,} {kind}s: kept from before ({target})")
        return np.load(target, mmap_mode="r")
    say(f"  features of {len(side):,} {kind}s: computing once")
    body = body.to(memory_format=torch.channels_last).to(device).eval()
    inputs = plain_inputs(side, spec, tokenizer)
    features = compute_features(body, side, inputs, device, what=f"{kind} features")
    _keep(features, target)
    return features


def _preparation(kind: str, spec: PairSpec, tokenizer: Any) -> str:
    """What decides how samples become inputs; not where a tokenizer came from, but its words."""
    if kind == "image":
        return repr((spec.image_size, spec.mean, spec.std))
    plain = getattr(tokenizer, "tokenizer", tokenizer)
    words = plain.get_vocab() if hasattr(plain, "get_vocab") else plain.encoder
    settings = {k: v for k, v in spec.text.items() if not k.endswith("_name")}
    return repr((settings, sorted(words.items())))


def _cache_file(body: nn.Module, side: ImageSource | Texts, preparation: str) -> Path:
    digest = blake2b(weights_digest(body), digest_size=12)
    digest.update(preparation.encode())
    digest.update(_samples(side))
    return cache_folder() / "features" / f"{digest.hexdigest()}.npy"


def _samples(side: ImageSource | Texts) -> bytes:
    """Who the rows of a side are."""
    return side.ids.tobytes() + side.marks.tobytes()


def _keep(features: np.ndarray, target: Path) -> None:
    """Only a convenience: a full or read-only disk is no reason to stop."""
    temporary = target.with_suffix(f".{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(target.parent).free < 2 * features.nbytes:
            raise OSError("the disk is nearly full")
        with open(temporary, "wb") as file:
            np.save(file, features)
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        say(f"  features are not kept for another time ({error})")


def stored_embeddings(
    run: Run, side: ImageSource | Texts, compute: Callable[[], np.ndarray]
) -> np.ndarray:
    """Embeddings of a side by the run's towers, from the run's folder if they are there.

    They are computed again when the towers were trained further or the samples changed.
    """
    digest = blake2b((run.folder / "trained.safetensors").read_bytes(), digest_size=12)
    digest.update(_samples(side))
    target = run.folder / "embeddings" / f"{digest.hexdigest()}.npy"
    if target.is_file():
        return np.load(target, mmap_mode="r")
    vectors = compute()
    _keep(vectors, target)
    return vectors
