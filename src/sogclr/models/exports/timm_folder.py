"""Write an encoder as a folder of timm: `timm.create_model("local-dir:FOLDER")` loads it."""

import json
from pathlib import Path
from typing import Any

import torch

from ..image_encoder import ImageEncoder
from .compare import Examples, require_equal
from .preprocessing import Preprocessing

__all__ = ["write_timm"]


def write_timm(model: ImageEncoder, folder: Path, examples: Examples) -> float:
    """Write weights, and a configuration with the preprocessing.

    Args:
        model: an encoder that timm builds, see `formats.why_not`.
        folder: an empty folder.
        examples: images.

    Returns:
        The largest difference between the vectors of timm's model and those of the encoder.

    Raises:
        UserError: timm's model gives other vectors.
    """
    import timm
    from timm.models import save_for_hf

    made = Preprocessing.of(model)
    data = {
        "input_size": (3, made.image_size, made.image_size),
        "mean": made.mean,
        "std": made.std,
        "crop_pct": made.image_size / made.shorter_side,
        "crop_mode": "center",
        "interpolation": made.resampling,
    }
    architecture = model.spec.name.partition(".")[0]  # without the tag of published weights
    more = {"pretrained_cfg": {"architecture": architecture, "num_classes": 0, **data}}
    save_for_hf(model.encoder, str(folder), model_config=more, safe_serialization=True)
    _keep_arguments(folder / "config.json", model.spec.options)
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    with torch.no_grad():
        found = loaded(torch.stack([model.preprocess(image) for image in examples.images]))
    return require_equal(found, examples.of_images, "--format timm")


def _keep_arguments(path: Path, options: dict[str, Any]) -> None:
    """Keep these arguments alone: timm adds `num_classes`, which transformers passes itself."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["model_args"] = options
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
