"""One flipped bit in a file: who finds it. Other libraries are counted, not judged."""

import random
import sqlite3
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file, save_file

from sogclr.runs.folder import Run

WEIGHTS = {"w": torch.randn(64, 64, generator=torch.Generator().manual_seed(0))}
ROWS = [(i, str(i * 0.1)) for i in range(800)]


def write_database(path):
    path.unlink(missing_ok=True)
    database = sqlite3.connect(path)
    database.execute("create table t(a integer, b text)")
    database.executemany("insert into t values(?, ?)", ROWS)
    database.commit()
    database.close()


def read_database(path):
    database = sqlite3.connect(path)
    try:
        rows = database.execute("select * from t").fetchall()
        if database.execute("pragma integrity_check").fetchall() != [("ok",)]:
            raise ValueError("found by pragma integrity_check")
    finally:
        database.close()
    return rows


def is_same(weights):
    return "w" in weights and torch.equal(weights["w"], WEIGHTS["w"])


def count_ends(path, read, same, flips):
    good, rng, ends = path.read_bytes(), random.Random(0), Counter()
    for _ in range(flips):
        content = bytearray(good)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        try:
            ends["harmless" if same(read(path)) else "read wrongly"] += 1
        except Exception:  # each library has its own
            ends["found"] += 1
    path.write_bytes(good)
    return ends


@pytest.mark.parametrize("flips", [10, pytest.param(1000, marks=pytest.mark.fuzz)])
def test_flipped_bits(tmp_path, counts, flips):
    run, path = Run(tmp_path / "run"), tmp_path / "file"
    run.folder.mkdir()
    run.write_checkpoint(WEIGHTS)
    run.write_weights(run.encoder, WEIGHTS)
    found = {
        "a run's `checkpoint.pt`": count_ends(
            run.checkpoint, lambda _: run.read_checkpoint(), is_same, flips
        ),
        "a run's `encoder.safetensors`": count_ends(
            run.encoder, lambda _: run.read_weights(run.encoder), is_same, flips
        ),
    }
    assert all(ends == {"found": flips} for ends in found.values())
    torch.save(WEIGHTS, path)
    found["torch.load"] = count_ends(path, torch.load, is_same, flips)
    save_file(WEIGHTS, path)
    found["safetensors"] = count_ends(path, load_file, is_same, flips)
    write_database(path)
    found["SQLite, with `pragma integrity_check`"] = count_ends(
        path, read_database, ROWS.__eq__, flips
    )
    counts["flipped bits"] = found
