"""Record what the library computes today: `python tests/recorded/record.py`."""

import json
import os
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from cases import CASES, compute, compute_shared
from runs import RUNS, compute_run, prepare
from safetensors.torch import save_file

HERE = Path(__file__).parent
LOSSES, RUNS_FILE = HERE / "losses.safetensors", HERE / "runs.json"


def main() -> None:
    """Write both files anew."""
    torch.set_num_threads(1)
    found = {name: compute(case) for name, case in CASES.items()}
    with tempfile.TemporaryDirectory() as folder:
        found |= compute_shared(Path(folder))
    flat = {f"{case}|{name}": x for case, kept in found.items() for name, x in kept.items()}
    save_file(flat, LOSSES)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        prepare(Path(folder))
        runs = {name: compute_run(name, Path(folder)) for name in RUNS}
    RUNS_FILE.write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()
