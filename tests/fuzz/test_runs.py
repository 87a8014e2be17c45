"""Damaged files of runs: a command gives what the sound run gives, or refuses.

JSON is for people too: a changed value that has its type and range is taken as it stands. Without
digests nobody can tell changed weights, as with any file of safetensors; their shapes are checked.
"""

import json
import shutil

import numpy as np
import pytest
from helpers.commands_in_process import end_of, short_training
from helpers.fuzzing import damage, draw_damages, run_cases
from hypothesis import strategies as st

FILES = {
    "images": (
        *("settings.json", "encoder.json", "digests.json", "metrics.jsonl", "checkpoint.pt"),
        *("encoder.safetensors", "initial.safetensors"),
    ),
    "trained": (
        *("settings.json", "towers.json", "digests.json", "metrics.jsonl", "checkpoint.pt"),
        *("trained.safetensors", "text/tokenizer.json", "text/tokenizer_config.json"),
    ),
}
VALUES = st.one_of(
    st.sampled_from([None, True, False, 0, -1, 1, 8, 0.5, -0.0, 1e300, 2**31, 2**63 - 1, 2**70]),
    st.sampled_from(["", "x", "small", "auto", "../x", [], {}, [None], [0.5, 0.5, 0.5], {"a": 1}]),
    st.sampled_from([float("nan"), "NaN", "a" * 5000, "\ud800", "hf-hub:a/b", "\0", "[/red]"]),
)


@st.composite
def draw_changes(draw):
    """Of a run: a file, what happens to it, and whether the digests are lost as well."""
    run = draw(st.sampled_from(sorted(FILES)))
    name = draw(st.sampled_from(FILES[run]))
    kinds = ["bytes", "bytes", "removed", "emptied", "folder", "another"]
    kind = draw(st.sampled_from(["value"] * 8 + kinds if name.endswith(".json") else kinds))
    if kind == "bytes":
        change = draw(draw_damages())
    elif kind == "another":
        change = draw(st.sampled_from(FILES[run]))
    else:
        change = (
            draw(st.integers(0, 999)),
            draw(st.sampled_from(["set", "delete", "add"])),
            draw(VALUES),
        )
    return run, name, kind, change, draw(st.booleans())


def places_in(data):
    """All places of a JSON document, as (container, key)."""
    entries = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in list(entries):
        yield data, key
        if isinstance(value, dict | list):
            yield from places_in(value)


def change_value(path, number, action, value):
    data = json.loads(path.read_text())
    places = list(places_in(data))
    if not places:
        return
    container, key = places[number % len(places)]
    if action == "delete":
        del container[key]
    elif action == "add" and isinstance(container, dict):
        container["new"] = value
    else:
        container[key] = value
    path.write_text(json.dumps(data))


def apply(folder, name, kind, change):
    path = folder / name
    if kind == "value":
        change_value(path, *change)
    elif kind == "bytes":
        path.write_bytes(damage(path.read_bytes(), change))
    elif kind == "another":
        path.write_bytes((folder / change).read_bytes())
    elif kind == "emptied":
        path.write_bytes(b"")
    else:
        path.unlink()
        if kind == "folder":
            path.mkdir()


@pytest.fixture
def check(tmp_path, monkeypatch, make_folder, trained, pairs):
    make_folder()
    monkeypatch.chdir(tmp_path)
    start = ["pretrain", "photos", "--encoder", "small", "--image-size", "8", "--batch-size", "8"]
    assert end_of([*start, "--out", "images", "--epochs", "1", "--device", "cpu"]) == "done"
    shutil.copytree(trained, "trained")
    data = {"images": "photos", "trained": str(pairs)}
    resumed = {"images": "pretrain", "trained": "align"}

    def embed(run, folder):
        words = ["embed", folder, data[run], "--out", "x.npz", "--device", "cpu"]
        end = end_of(words)
        if end != "done":
            return None
        with np.load("x.npz") as stored:
            return stored["vectors"]

    sound = {run: embed(run, run) for run in FILES}

    def check(changed):
        run, name, kind, change, lost = changed
        shutil.rmtree("copy", ignore_errors=True)
        shutil.copytree(run, "copy")
        apply(tmp_path / "copy", name, kind, change)
        if lost and name != "digests.json":
            (tmp_path / "copy" / "digests.json").unlink()
        vectors = embed(run, "copy")
        end = end_of([resumed[run], data[run], "--out", "copy", "--resume", "--device", "cpu"])
        if vectors is None or end == "refused":
            return "refused"
        if name.endswith((".json", ".jsonl")) or lost:
            return "read as it stands"
        assert np.array_equal(vectors, sound[run])
        return "the same result"

    return check


@pytest.mark.parametrize("cases", [6, pytest.param(500, marks=pytest.mark.fuzz)])
def test_damaged_runs(check, counts, cases):
    with short_training():
        counts["files of runs"] = ends = run_cases(check, cases, changed=draw_changes())
    assert "refused" in ends
