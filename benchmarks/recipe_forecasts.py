"""Forecast the memory and the hours of every recipe on named GPUs, by `--dry-run`.

    python benchmarks/recipe_forecasts.py

Needs no GPU and no data: a few made-up images stand for the data set, with the batch of one GPU.
Hours are those of this batch times the number of such batches in the run. Nothing is trained. Takes
minutes on a CPU. Writes `results/recipe_forecasts.json`, the numbers of `docs/recipes.md`.
"""

import json
import re
import shlex
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import sogclr
from sogclr.planning.gpus import UTILISATION

RECIPES = Path(__file__).parents[1] / "recipes"
RESULTS = Path(__file__).parent / "results" / "recipe_forecasts.json"
# Number of samples: of CC3M and CC12M, those that FastCLIP could download.
SAMPLES = {
    "imagenet1k_batch256": 1_281_167, "imagenet1k_batch8192": 1_281_167, "imagenet100": 126_689,
    "cifar10": 50_000, "cifar100": 50_000, "cc3m": 2_723_840, "cc12m": 9_187_328,
}  # fmt: skip
CAPTIONS = 6_000


def options_of(recipe: Path) -> tuple[int, dict[str, Any]]:
    """Return the number of GPUs of a recipe, and its options by their names in Python."""
    words = shlex.split(recipe.read_text().partition("exec ")[2].replace("\\\n", " "))
    gpus = int(words[words.index("--nproc-per-node") + 1]) if words[0] == "torchrun" else 1
    words = words[words.index("--out") + 2 : -1]
    options: dict[str, Any] = {}
    for name, value in zip(words[::2], words[1::2], strict=True):
        number = re.fullmatch(r"[\d.e-]+", value)
        key = name.removeprefix("--").replace("-", "_")
        options[key] = (float(value) if set(value) & set(".e") else int(value)) if number else value
    return gpus, options


def forecast(recipe: Path, folder: Path) -> dict[str, Any]:
    """Forecast a recipe for each of its GPUs."""
    gpus, options = options_of(recipe)
    options["batch_size"] //= gpus
    count = options["batch_size"] * options.get("accumulate", 1)
    rng = np.random.default_rng(0)
    options |= {"out": folder / "run", "device": "cuda", "dry_run": True}
    if "model" in options:
        for i in range(count):
            image = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
            image.save(folder / f"{i}.png")
        # The logarithm of the number of captions must be above rho.
        texts = (f"{i % count}.png,a picture of the number {i}" for i in range(CAPTIONS))
        rows = ["image,caption", *texts]
        (folder / "pairs.csv").write_text("\n".join(rows))
        found = sogclr.align(folder / "pairs.csv", **options).forecast
    else:
        images = rng.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
        found = sogclr.pretrain(images, **options).forecast
    assert found is not None
    assert found.memory is not None
    samples = SAMPLES[recipe.stem]
    return {
        "recipe": recipe.stem,
        "gpus": gpus,
        "memory_gb": round(found.memory / 1e9, 1),
        "table_mb": round((16 if "model" in options else 8) * samples / 1e6, 1),
        "hours": {name: round(h * samples / gpus / count, 1) for name, h in found.hours.items()},
    }


def main() -> None:
    rows = []
    for recipe in sorted(RECIPES.glob("*.sh")):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(forecast(recipe, Path(folder)))
        print(rows[-1])
        content = {"utilisation": UTILISATION, "rows": rows}
        RESULTS.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
