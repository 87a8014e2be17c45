"""Write a text tower as a folder of sentence-transformers."""

from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from ..build_towers import quiet
from ..pair_encoder import PairEncoder
from .compare import Examples, require_equal
from .formats import POOLERS

__all__ = ["write_sentence_transformer"]


def write_sentence_transformer(model: PairEncoder, folder: Path, examples: Examples) -> float:
    """Write the text tower: a transformer, pooling, dense layers, and scaling to length 1.

    Args:
        model: towers whose text tower is loaded there, see `formats.why_not`.
        folder: an empty folder.
        examples: texts.

    Returns:
        The largest difference between the vectors that are loaded there and the tower's.

    Raises:
        UserError: the loaded model gives other vectors.
    """
    from sentence_transformers import SentenceTransformer

    with quiet(), TemporaryDirectory() as parts:
        modules = _build_modules(model, Path(parts))
        SentenceTransformer(modules=modules, device="cpu").save(
            str(folder), create_model_card=False
        )
    cleaned = [model.tokenizer.clean_fn(text) for text in examples.texts]
    with quiet():
        loaded = SentenceTransformer(str(folder), device="cpu")
        found = loaded.encode(cleaned, convert_to_tensor=True, show_progress_bar=False)
    return require_equal(found.cpu(), examples.of_texts, "--format sentence-transformers")


def _build_modules(model: PairEncoder, folder: Path) -> list[nn.Module]:
    """Build the modules; the transformer is built of files, which are written to `folder`."""
    try:
        parts = import_module("sentence_transformers.sentence_transformer.modules")
    except ImportError:  # before version 6
        parts = import_module("sentence_transformers.models")
    tower: Any = model.towers["text"]
    tower.body.transformer.save_pretrained(folder)
    model.tokenizer.save_pretrained(str(folder))
    transformer = parts.Transformer(str(folder), max_seq_length=model.tokenizer.context_length)
    width = tower.body.config.hidden_size
    pooler = POOLERS[model.spec.text.get("hf_pooler_type", "mean_pooler")]
    return [
        transformer,
        parts.Pooling(width, pooling_mode=pooler),
        *_dense_layers(tower.head, parts.Dense),
        parts.Normalize(),
    ]


def _dense_layers(head: nn.Module, kind: Any) -> list[nn.Module]:
    """Return a layer for each linear one of the head, with the activation behind it."""
    inner = [each for each in head.modules() if not list(each.children())]
    layers = []
    for place, linear in enumerate(inner):
        if not isinstance(linear, nn.Linear):
            continue
        has_gelu = any(isinstance(each, nn.GELU) for each in inner[place + 1 : place + 2])
        dense = kind(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            activation_function=nn.GELU() if has_gelu else nn.Identity(),
        )
        with torch.no_grad():
            dense.linear.load_state_dict(linear.state_dict())
        layers.append(dense)
    return layers
