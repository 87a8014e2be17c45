"""Export to ONNX and TorchScript: traced operations, with the scaling of pixels inside."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...common.errors import one_line
from ...common.options import ExportFormat
from ..image_encoder import ImageEncoder
from ..pair_encoder import PairEncoder
from .compare import Examples, require_equal
from .formats import refuse
from .instructions import write_instructions
from .preprocessing import FromPixels, FromTokens, Preprocessing
from .tokenizer_file import write_tokenizer

__all__ = ["write_onnx", "write_torchscript"]

Model = ImageEncoder | PairEncoder
LARGEST_IN_ONE_FILE = 1 << 30  # bytes of weights; an ONNX file ends at 2 GiB


def write_onnx(model: Model, folder: Path, examples: Examples) -> float:
    """Write an ONNX file for each side of a model, for batches of any size, and instructions.

    Args:
        model: the model, on the CPU.
        folder: an empty folder.
        examples: at least two inputs of each side.

    Returns:
        The largest difference between the vectors of ONNX Runtime and those of the model.

    Raises:
        UserError: the model cannot be exported, or its export gives other vectors.
    """
    return _write_sides(model, folder, examples, "onnx", _export_onnx, _run_onnx)


def write_torchscript(model: Model, folder: Path, examples: Examples) -> float:
    """Write a TorchScript file for each side of a model; arguments and result as `write_onnx`."""
    return _write_sides(model, folder, examples, "torchscript", _trace, _run_traced)


def _write_sides(
    model: Model,
    folder: Path,
    examples: Examples,
    name: ExportFormat,
    write: Callable[[nn.Module, Tensor, Path], None],
    run: Callable[[Path, Tensor], Any],
) -> float:
    """Write a file for each side by `write`, and compare what `run` computes with it."""
    preprocessing = Preprocessing.of(model)
    sides = _sides_of(model, examples, preprocessing)
    has_tokenizer = isinstance(model, PairEncoder) and write_tokenizer(
        model.tokenizer, examples.texts, folder / "tokenizer.json"
    )
    differences = []
    for side, (module, inputs, expected) in sides.items():
        path = folder / f"{side}{'.onnx' if name == 'onnx' else '.pt'}"
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # that a library deprecates its own functions
                write(module, inputs, path)
        except OSError:  # of the disk
            raise
        except Exception as error:  # tracing raises errors of many types
            reason = one_line(error) or type(error).__name__
            raise refuse(model, name, f"the {side} encoder cannot be traced ({reason})") from error
        # Another batch size than the traced one: it must not be fixed.
        for part in (slice(None), slice(0, 1)):
            found = run(path, inputs[part])
            differences.append(require_equal(found, expected[part], f"--format {name}: {path}"))
    if "image" in sides:
        text = json.dumps(preprocessing.as_dict(), indent=2) + "\n"
        (folder / "preprocessing.json").write_text(text, encoding="utf-8")
    sizes = {side: (x.shape[1], expected.shape[1]) for side, (_, x, expected) in sides.items()}
    write_instructions(folder, name, sizes, preprocessing, has_tokenizer=has_tokenizer)
    return max(differences)


def _sides_of(
    model: Model, examples: Examples, preprocessing: Preprocessing
) -> dict[str, tuple[nn.Module, Tensor, Tensor]]:
    """Return the encoder of each side, its inputs, and the vectors that it must give."""
    sides: dict[str, tuple[nn.Module, Tensor, Tensor]] = {}
    if examples.images:
        tower = model.towers["image"] if isinstance(model, PairEncoder) else model.encoder
        pixels = np.stack([preprocessing.pixels(image) for image in examples.images])
        module = FromPixels(tower, preprocessing).eval()
        sides["image"] = module, torch.from_numpy(pixels), examples.of_images  # (n, S, S, 3)
    if isinstance(model, PairEncoder):
        tokens = model.tokenizer(examples.texts)  # (m, L)
        sides["text"] = FromTokens(model.towers["text"]).eval(), tokens, examples.of_texts
    return sides


def _export_onnx(module: nn.Module, inputs: Tensor, path: Path) -> None:
    argument = "pixels" if isinstance(module, FromPixels) else "tokens"
    weights = sum(value.numel() * value.element_size() for value in module.state_dict().values())
    torch.onnx.export(
        module,
        (inputs[:2],),
        path,
        dynamo=True,
        dynamic_shapes={argument: {0: torch.export.Dim("n")}},
        input_names=[argument],
        output_names=["vectors"],
        external_data=weights > LARGEST_IN_ONE_FILE,
        verbose=False,
    )


def _run_onnx(path: Path, inputs: Tensor) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (argument,) = session.get_inputs()
    (vectors,) = session.run(None, {argument.name: inputs.numpy()})
    return vectors


def _trace(module: nn.Module, inputs: Tensor, path: Path) -> None:
    torch.jit.save(torch.jit.trace(module, inputs[:2], check_trace=False), path)


def _run_traced(path: Path, inputs: Tensor) -> Tensor:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return torch.jit.load(path)(inputs)
