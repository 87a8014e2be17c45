import os
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import torch
from PIL import Image

pytest_plugins = ["helpers.pair_fixtures"]

# Nothing here needs a network; what would ask the hub fails at once, also in processes of its own.
os.environ["HF_HUB_OFFLINE"] = "1"
# Kernels are interpreted where there is no GPU. Triton reads this when it is first imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """Headers are remembered in the user's cache; tests keep theirs to themselves."""
    # A name is enough: to make thousands of folders takes longer the more of them there are.
    monkeypatch.setenv("SOGCLR_CACHE", str(tmp_path_factory.getbasetemp() / f"cache-{uuid4()}"))


@pytest.fixture
def make_folder(tmp_path):
    """A folder of small images in classes that differ in colour."""

    def make(name="photos", per_class=8, classes=("blue", "red"), size=(12, 10), seed=0) -> Path:
        rng = np.random.default_rng(seed)
        for number, label in enumerate(classes):
            (tmp_path / name / label).mkdir(parents=True, exist_ok=True)
            for i in range(per_class):
                pixels = rng.integers(0, 120, (size[1], size[0], 3), dtype=np.uint8)
                pixels[..., number % 3] += 130
                Image.fromarray(pixels).save(tmp_path / name / label / f"{i:03d}.png")
        return tmp_path / name

    return make


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; tests that need it are skipped where it is missing."""
    default = Path(__file__).parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("SOGCLR_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}; set SOGCLR_DATA")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _no_report_at_the_end():
    """Training ends without its report, which takes longer than the small runs of the tests."""
    from sogclr.commands import report

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "report_at_the_end", lambda *arguments: None)
        yield
