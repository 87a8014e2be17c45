"""Features of all samples of one side; features of frozen towers are cached on disk."""

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
from ..common.errors import UserError, one_line
from ..common.regular_files import require_regular
from ..common.whole_files import remove_leftovers, replace_file
from ..data.image_source import ImageSource
from ..data.rgb import EDITION
from ..data.texts import Texts
from .tower_inputs import CenterImages, Inputs, Tokens, padding_of
from .towers import PairSpec, weights_digest

__all__ = [
    "cached_features",
    "compute_features",
    "find_cached_features",
    "plain_inputs",
    "stored_embeddings",
]

BATCH = 64


def plain_inputs(side: ImageSource | Texts, spec: PairSpec, tokenizer: Any) -> Inputs:
    """Make the inputs of one side, without augmentation."""
    if isinstance(side, Texts):
        return Tokens(side, tokenizer, padding_of(spec, tokenizer))
    return CenterImages(side, spec)


def compute_features(
    encode: Callable[[torch.Tensor], torch.Tensor],
    side: ImageSource | Texts,
    inputs: Inputs,
    device: torch.device,
    *,
    rows: np.ndarray | None = None,
    what: str | None = None,
    reported: set[str] | None = None,
) -> np.ndarray:
    """Compute features of one side.

    Args:
        encode: maps inputs on the device to features `(b, w)`.
        side: the samples, n of them.
        inputs: the inputs of the side.
        device: device on which `encode` computes.
        rows: `(m,)` rows to compute. Default: all.
        what: label of the progress bar, or None for no bar.
        reported: names of unreadable samples that are not reported again; new ones are added.

    Returns:
        `(n, w)` float32; NaN in rows that are unreadable or not requested.

    Raises:
        UserError: no sample can be read.
    """
    order = np.arange(len(side)) if rows is None else np.unique(rows)
    if isinstance(side, Texts):  # batches of similar length need less padding
        order = order[np.argsort(side.lengths[order], kind="stable")]
    parts = np.array_split(order, max(1, -(-len(order) // BATCH)))
    reported = set() if reported is None else reported
    result: np.ndarray | None = None
    with torch.no_grad():
        for part in parts if what is None else track(parts, what, total=len(parts)):
            prepared = inputs.prepare(part, 0)
            for name, reason in prepared.unreadable:
                if name not in reported:
                    say(f"skipped {name}: {reason}")
                reported.add(name)
            if not prepared.readable.any():
                continue
            features = encode(inputs.to_model(prepared, device)).float().cpu().numpy()  # (b, w)
            if result is None:
                result = np.full((len(side), features.shape[1]), np.nan, dtype=np.float32)
            result[part[prepared.readable]] = features
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
    """Return the features of a frozen body: from the cache, or computed and cached.

    The cache identifies features by the tower's structure and weights, the preprocessing, and the
    samples.

    Args:
        body: body of the frozen tower.
        kind: "image" or "text".
        side: the samples, n of them.
        spec: description of the towers.
        tokenizer: the tokenizer of texts.
        device: device to compute on.

    Returns:
        `(n, w)` float32, mapped from the file if they were cached.
    """
    target = _cache_file(body, side, _preparation(kind, spec, tokenizer))
    if (cached := _read(target, len(side))) is not None:
        say(f"  features of {len(side):,} {kind}s: read from the cache ({target})")
        return cached
    say(f"  features of {len(side):,} {kind}s: computing once")
    body = body.to(memory_format=torch.channels_last).to(device).eval()
    inputs = plain_inputs(side, spec, tokenizer)
    features = compute_features(body, side, inputs, device, what=f"{kind} features")
    _store(features, target)
    return features


def find_cached_features(
    body: nn.Module, kind: str, side: ImageSource | Texts, spec: PairSpec, tokenizer: Any
) -> np.ndarray | None:
    """Return what `cached_features` returns, but None if it would have to compute."""
    return _read(_cache_file(body, side, _preparation(kind, spec, tokenizer)), len(side))


def _preparation(kind: str, spec: PairSpec, tokenizer: Any) -> str:
    """Describe the preprocessing; a tokenizer counts by its vocabulary, not by its path."""
    if kind == "image":
        return repr((EDITION, spec.image_size, spec.mean, spec.std))
    plain = getattr(tokenizer, "tokenizer", tokenizer)
    words = plain.get_vocab() if hasattr(plain, "get_vocab") else plain.encoder
    settings = {k: v for k, v in spec.text.items() if not k.endswith("_name")}
    return repr((settings, sorted(words.items())))


def _cache_file(body: nn.Module, side: ImageSource | Texts, preparation: str) -> Path:
    digest = blake2b(weights_digest(body), digest_size=12)
    digest.update(preparation.encode())
    digest.update(_sample_bytes(side))
    return cache_folder() / "features" / f"{digest.hexdigest()}.npy"


def _sample_bytes(side: ImageSource | Texts) -> bytes:
    """Return bytes that change whenever the samples of a side do."""
    return side.ids.tobytes() + side.marks.tobytes()


def _read(target: Path, rows: int) -> np.ndarray | None:
    """Map cached features from their file; None if there are none, or not all of them."""
    try:
        require_regular(target.stat(), target)
        features = np.load(target, mmap_mode="r")
        if features.shape[:1] != (rows,) or features.ndim != 2 or features.dtype != np.float32:
            raise ValueError("it has another shape")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        say(f"  {target} is damaged ({one_line(error)}): computing again")
        return None
    return features


def _store(features: np.ndarray, target: Path) -> None:
    """Write features to a file; a full or read-only disk is reported, but is no error."""

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, features)
        np.load(path, mmap_mode="r")  # NumPy does not notice if the disk took only a part.

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target.parent, lambda name: name.endswith(".npy"))
        if shutil.disk_usage(target.parent).free < 2 * features.nbytes:
            raise OSError("the disk is nearly full")
        replace_file(target, write)
    except (OSError, ValueError) as error:
        say(f"  features are not cached ({one_line(error)})")


def stored_embeddings(
    weights: Path, folder: Path, side: ImageSource | Texts, compute: Callable[[], np.ndarray]
) -> np.ndarray:
    """Return the embeddings of a side, from a folder if the weights and samples are unchanged.

    Args:
        weights: file with the weights of the towers; its contents identify the embeddings.
        folder: where embeddings are stored.
        side: the samples.
        compute: computes the embeddings `(n, d)` if the folder does not have them.
    """
    digest = blake2b(weights.read_bytes(), digest_size=12)
    digest.update(b"" if isinstance(side, Texts) else str(EDITION).encode())
    digest.update(_sample_bytes(side))
    target = folder / f"{digest.hexdigest()}.npy"
    if (cached := _read(target, len(side))) is not None:
        return cached
    vectors = compute()
    _store(vectors, target)
    return vectors
