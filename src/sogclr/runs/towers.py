"""Read and write the towers of a run of `sogclr.align`.

towers.json           how to build the towers, and which input they expect
trained.safetensors   the weights that training changes, and the temperature
frozen.safetensors    the bodies of frozen towers, written once
text/                 configuration and tokenizer of a Hugging Face text tower
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..common.errors import UserError
from ..models.build_towers import rebuild_towers, tokenizer_of, use_folder
from ..models.pair_encoder import PairEncoder
from ..models.towers import PairModel, PairSpec, Tower
from .folder import Run, atomically, is_pair_run, pretty

__all__ = ["load_pairs", "pair_files", "write_start", "write_trained"]

LOG_TEMPERATURE, BIAS = "log_temperature", "bias"


def pair_files(run: Run) -> dict[str, Path]:
    """Return the paths of the files listed above, by name."""
    folder = run.folder
    return {
        "spec": folder / "towers.json",
        "trained": folder / "trained.safetensors",
        "frozen": folder / "frozen.safetensors",
        "text": folder / "text",
    }


def write_start(run: Run, spec: PairSpec, towers: dict[str, Tower], tokenizer: Any) -> None:
    """Write what training does not change.

    Args:
        run: the run's folder.
        spec: the description of the towers.
        towers: the towers by kind.
        tokenizer: the tokenizer of the text tower.
    """
    files = pair_files(run)
    atomically(files["spec"], lambda path: path.write_text(pretty(spec.as_dict())))
    frozen = {
        f"{kind}.{name}": value
        for kind in spec.frozen
        for name, value in _on_cpu(towers[kind].body.state_dict()).items()
    }
    if frozen:
        atomically(files["frozen"], lambda path: save_file(frozen, path))
    if "hf_model_name" in spec.text:
        body: Any = towers["text"].body
        body.config.save_pretrained(files["text"])
    if "hf_tokenizer_name" in spec.text:
        tokenizer.save_pretrained(str(files["text"]))


def write_trained(
    run: Run, weights: dict[str, Tensor], temperature: float, bias: float | None
) -> None:
    """Write what training changes.

    Args:
        run: the run's folder.
        weights: the full state_dict of a `PairModel`.
        temperature: tau of the loss; the mean of individual ones.
        bias: the bias of SigLIP's loss, or None.
    """
    state = _on_cpu(weights)
    state[LOG_TEMPERATURE] = torch.tensor(temperature).log()
    if bias is not None:
        state[BIAS] = torch.tensor(bias)
    atomically(pair_files(run)["trained"], lambda path: save_file(state, path))


def load_pairs(run: str | Path, module: nn.Module | None = None) -> PairEncoder:
    """Load the trained towers of a run.

    Args:
        run: the run's folder.
        module: the user's own image tower, of the trained architecture; None if the run has none.

    Raises:
        UserError: the folder is not a run of pairs, has saved no towers yet, or a tower does not
            fit.
    """
    if not is_pair_run(run):
        raise UserError(f"run: {run} was trained on images alone; give a run of sogclr align")
    files = pair_files(Run(run))
    if not (files["spec"].is_file() and files["trained"].is_file()):
        raise UserError(f"run: {run} has saved no towers yet; go on with --resume")
    spec = read_spec(Run(run))
    if spec.custom and module is None:
        raise UserError(
            f"run: {run} has an image tower of your own; pass one of the same architecture: "
            "sogclr.load(run, module)"
        )
    towers = rebuild_towers(spec, files["text"], module)
    try:
        trained = load_file(files["trained"])
        temperature, bias = trained.pop(LOG_TEMPERATURE), trained.pop(BIAS, None)
        load_frozen(Run(run), towers)
        PairModel(towers, spec.kinds, spec.frozen).load_state_dict(trained)
    except (OSError, KeyError, RuntimeError, SafetensorError) as error:
        lines = str(error).split("\n\t")
        raise UserError(f"run: the towers of {run} do not fit: {lines[-1].strip()}") from error
    return PairEncoder(
        use_folder(spec, files["text"]),
        towers,
        tokenizer_of(spec, files["text"]),
        float(temperature),
        None if bias is None else float(bias),
    )


def read_spec(run: Run) -> PairSpec:
    """Read the description of a run's towers."""
    return PairSpec.from_dict(json.loads(pair_files(run)["spec"].read_text()))


def load_frozen(run: Run, towers: dict[str, Tower]) -> None:
    """Load the weights of frozen bodies into rebuilt towers."""
    target = pair_files(run)["frozen"]
    state = load_file(target) if target.is_file() else {}
    for kind in {name.split(".")[0] for name in state}:
        prefix = kind + "."
        body = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        towers[kind].body.load_state_dict(body)


def _on_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors as safetensors needs them: contiguous, and sharing no memory."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
