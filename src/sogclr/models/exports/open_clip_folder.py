"""Write towers as a folder of open_clip: `open_clip.create_model("local-dir:FOLDER")` loads it."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.nn.functional import normalize

from ..build_towers import quiet
from ..pair_encoder import PairEncoder
from .compare import Examples, require_equal
from .preprocessing import Preprocessing

__all__ = ["write_open_clip"]

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


def write_open_clip(
    model: PairEncoder, folder: Path, examples: Examples, hub_name: str | None = None
) -> float:
    """Write weights, a configuration with the preprocessing, and the tokenizer.

    Args:
        model: towers that open_clip builds, see `formats.why_not`.
        folder: an empty folder.
        examples: images and texts.
        hub_name: the repository of the Hugging Face hub that the folder becomes. open_clip looks
            there for the configuration of a Hugging Face text tower. Default: in `folder`.

    Returns:
        The largest difference between the vectors of open_clip's model and those of the towers.

    Raises:
        UserError: open_clip's model gives other vectors.
    """
    import open_clip

    clip = model.to_open_clip()
    state = {key: value.contiguous().clone() for key, value in clip.state_dict().items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    names = {"hf_model_name", "hf_tokenizer_name"} & model.spec.text.keys()
    for name in names:  # both are the same folder, that of the run
        for path in sorted(Path(model.spec.text[name]).iterdir()):
            shutil.copyfile(path, folder / path.name)
    _write_config(model, folder, dict.fromkeys(names, str(folder.resolve())))
    with quiet(), torch.no_grad():
        loaded: Any = open_clip.create_model(f"local-dir:{folder}").eval()
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        pixels = torch.stack([model.preprocess(image) for image in examples.images])
        images = normalize(loaded.encode_image(pixels), dim=-1)
        texts = normalize(loaded.encode_text(tokenizer(examples.texts)), dim=-1)
    if hub_name is not None and names:
        _write_config(model, folder, dict.fromkeys(names, hub_name))
    what = "--format openclip"
    return max(
        require_equal(images, examples.of_images, f"{what}: image tower"),
        require_equal(texts, examples.of_texts, f"{what}: text tower"),
    )


def _write_config(model: PairEncoder, folder: Path, text_names: dict[str, str]) -> None:
    spec, made = model.spec, Preprocessing.of(model)
    vision, text = dict(spec.vision or {}), {**spec.text, **text_names}
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False
    if "hf_model_name" in text:
        text["hf_model_pretrained"] = False
    bias = {} if model.bias is None else {"init_logit_bias": model.bias}
    config = {
        "model_cfg": {
            "embed_dim": spec.width,
            "quick_gelu": spec.quick_gelu,
            "custom_text": True,
            "vision_cfg": vision,
            "text_cfg": text,
            **bias,
        },
        "preprocess_cfg": {
            "size": made.image_size,
            "mean": made.mean,
            "std": made.std,
            "interpolation": made.resampling,
            "resize_mode": "shortest",
        },
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
