"""The recipes: each script's options reach a run, and its first ten steps are taken."""

import json
import os
import subprocess
from pathlib import Path
from shutil import which

import numpy as np
import pytest
from helpers.small_tables import write_table
from PIL import Image

from sogclr.commands.cli import main

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.sh"))
FORECASTS = ROOT / "benchmarks" / "results" / "recipe_forecasts.json"
BATCH, STEPS = 4, 10

pytestmark = pytest.mark.skipif(which("sh") is None, reason="the recipes are shell scripts")


@pytest.fixture
def words_of(tmp_path):
    """Runs a recipe with a stand-in for `sogclr` and `torchrun`; returns the words it was given."""
    for name in ("sogclr", "torchrun"):
        stand_in = tmp_path / "bin" / name
        stand_in.parent.mkdir(exist_ok=True)
        stand_in.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
        stand_in.chmod(0o755)

    def run(recipe, *words):
        path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["sh", recipe, *map(str, words)], env={"PATH": path}, capture_output=True, text=True
        )
        lines = done.stdout.splitlines()
        start = lines.index("sogclr") + 1 if "sogclr" in lines else 0
        return done.returncode, lines[start:]

    return run


def write_images(folder, count, size=40):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")


def first_steps(words, replaced, tmp_path):
    """Take ten steps with some options replaced, and compare the others with those of the run."""
    accumulate = int(replaced.get("--accumulate", 1)) if "--accumulate" in words else 1
    write_images(tmp_path / "images", BATCH * accumulate * STEPS)
    data = tmp_path / "images"
    if words[0] == "align":
        names = sorted(path.name for path in data.iterdir())
        rows = [(f"images/{name}", f"a picture {i}") for i, name in enumerate(names)]
        data = write_table(tmp_path / "pairs.csv", rows)
    options = dict(zip(words[4::2], words[5::2], strict=True))
    kept = {name: value for name, value in options.items() if name not in replaced}
    changed = {name: value for name, value in replaced.items() if name in options}
    pairs = [word for pair in (kept | changed).items() for word in pair]
    main([words[0], str(data), "--out", str(tmp_path / "run"), *pairs, "--device", "cpu"])

    asked = json.loads((tmp_path / "run" / "settings.json").read_text())["asked"]
    for name, value in kept.items():
        stored = asked[name.removeprefix("--").replace("-", "_")]
        assert stored == type(stored)(value), name
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == STEPS
    assert np.isfinite(last["objective"])


SMALLER = {"--batch-size": str(BATCH), "--accumulate": "2", "--epochs": "1", "--rho": "3"}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_first_steps_with_small_encoders(recipe, words_of, tmp_path, tiny):
    code, words = words_of(recipe, "DATA", "RUN")
    assert (code, words[1:4]) == (0, ["DATA", "--out", "RUN"])
    small = {"--encoder": "test_resnet", "--image-size": "32", "--model": str(tiny)}
    first_steps(words, SMALLER | small | {"--precision": "32-true"}, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_first_steps_with_the_encoders_of_the_recipe(recipe, words_of, tmp_path):
    _, words = words_of(recipe, "DATA", "RUN")
    first_steps(words, SMALLER | {"--image-size": "64"}, tmp_path)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_options_are_passed_on_and_missing_words_are_refused(recipe, words_of):
    assert words_of(recipe, "a b", "RUN", "--dry-run", "--seed", "3")[1][-3:] == [
        "--dry-run", "--seed", "3",
    ]  # fmt: skip
    assert words_of(recipe, "a b", "RUN")[1][1] == "a b"
    for words in ((), ("DATA",)):
        code, printed = words_of(recipe, *words)
        assert code != 0
        assert not printed


def test_the_page_has_the_forecast_of_every_recipe():
    page = (ROOT / "docs" / "recipes.md").read_text()
    rows = {row["recipe"]: row for row in json.loads(FORECASTS.read_text())["rows"]}
    assert set(rows) == {path.stem for path in RECIPES}
    for name, row in rows.items():
        hours = " | ".join(f"{h:,.0f}" if h >= 10 else f"{h:.1f}" for h in row["hours"].values())
        sizes = f"{row['gpus']} | {row['memory_gb']:.1f} | {row['table_mb']:.1f}"
        line = f"| `{name}` | {sizes} | {hours} |"
        assert line in page, line
