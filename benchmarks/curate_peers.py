"""Run by `curate.py` with the Python that has cleanvision, cleanlab and fastdup.

    python benchmarks/curate_peers.py FOLDER VECTORS.npz OUT.json TOOL [TOOL ...]

FOLDER has images; VECTORS.npz has names, vectors and labels of the same images. OUT.json gets, for
each tool that is installed, the pairs of near duplicates or the doubtful labels, and the version.
"""

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

Found = dict[str, Any]


def cleanvision_duplicates(folder: Path, data: Any) -> Found:
    """Near and exact duplicates by perceptual hashes, with default settings."""
    from cleanvision import Imagelab

    lab = Imagelab(data_path=str(folder))
    lab.find_issues({"exact_duplicates": {}, "near_duplicates": {}}, n_jobs=1, verbose=False)
    pairs = set()
    for kind in ("exact_duplicates", "near_duplicates"):
        for group in lab.info[kind]["sets"]:
            names = sorted(Path(path).relative_to(folder).as_posix() for path in group)
            pairs |= set(combinations(names, 2))
    return {"duplicates": sorted(pairs)}


def fastdup_duplicates(folder: Path, data: Any) -> Found:
    """Pairs with a similarity of 0.96 or more, its default for near duplicates."""
    import fastdup

    with tempfile.TemporaryDirectory() as work:
        run = fastdup.create(work_dir=work, input_dir=str(folder))
        run.run(overwrite=True, ccthreshold=0.96, num_threads=1, verbose=False)
        table = run.similarity(data=False)
        files = run.annotations().set_index("index")["filename"]
    table = table[table["distance"] >= 0.96]
    ends = zip(table["from"], table["to"], strict=True)
    names = [tuple(sorted(_relative(files[end], folder) for end in pair)) for pair in ends]
    return {"duplicates": sorted(set(names))}


def _relative(path: str, folder: Path) -> str:
    return Path(path).resolve().relative_to(folder.resolve()).as_posix()


def cleanlab_labels(folder: Path, data: Any) -> Found:
    """Labels by our vectors, as its documentation does: logistic regression, default settings."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
    labels, names = data["labels"], data["names"].tolist()
    probabilities = cross_val_predict(model, data["vectors"], labels, cv=5, method="predict_proba")
    order = np.argsort(get_label_quality_scores(labels, probabilities), kind="stable").tolist()
    listed = find_label_issues(
        labels, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1
    )
    return {"labels": [names[row] for row in listed], "ranked": [names[row] for row in order]}


TOOLS: dict[str, Callable[[Path, Any], Found]] = {
    "cleanvision": cleanvision_duplicates,
    "fastdup": fastdup_duplicates,
    "cleanlab": cleanlab_labels,
}


def main() -> None:
    folder, vectors, out = (Path(word) for word in sys.argv[1:4])
    data = np.load(vectors)
    results: dict[str, Any] = {}
    for name in sys.argv[4:]:
        tool = TOOLS[name]
        started = time.process_time()
        try:
            with contextlib.redirect_stdout(sys.stderr):
                found = tool(folder, data)
            results[name] = {
                "version": version(name),
                "cpu_seconds": round(time.process_time() - started, 1),
                **found,
            }
        except (ImportError, PackageNotFoundError, OSError, RuntimeError, AssertionError) as error:
            results[name] = {"failed": f"{type(error).__name__}: {error}"[:300]}
    out.write_text(json.dumps(results))


if __name__ == "__main__":
    main()
