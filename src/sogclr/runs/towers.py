"""Read and write the towers of a run of `sogclr.align`.

towers.json           how to build the towers, and which input they expect
trained.safetensors   the weights that training changes, and the temperature
frozen.safetensors    the bodies of frozen towers, written once
text/                 configuration and tokenizer of a Hugging Face text tower
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..common.errors import UserError
from ..models.build_towers import rebuild_towers, tokenizer_of, use_folder
from ..models.pair_encoder import PairEncoder
from ..models.tower_keys import drop_other_keys, require_no_code
from ..models.towers import PairModel, PairSpec, Tower
from ..models.wrapped import load_plain, plain_state, unwrap
from .folder import Run, is_pair_run
from .stored import read_json, write_json

__all__ = ["load_frozen", "load_pairs", "read_spec", "write_start", "write_trained"]

LOG_TEMPERATURE, BIAS = "log_temperature", "bias"


def write_start(run: Run, spec: PairSpec, towers: dict[str, Tower], tokenizer: Any) -> None:
    """Write what training does not change.

    Args:
        run: the run's folder.
        spec: the description of the towers.
        towers: the towers by kind.
        tokenizer: the tokenizer of the text tower.
    """
    write_json(run.towers_spec, spec.as_dict())
    if spec.frozen:
        bodies = {kind: towers[kind].body.state_dict() for kind in spec.frozen}
        run.write_weights(
            run.frozen,
            {f"{kind}.{name}": value for kind in bodies for name, value in bodies[kind].items()},
        )
    if "hf_model_name" in spec.text:
        body: Any = towers["text"].body
        body.config.save_pretrained(run.text)
    if "hf_tokenizer_name" in spec.text:
        tokenizer.save_pretrained(str(run.text))
    drop_other_keys(run.text)


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
    state = {**plain_state(weights), LOG_TEMPERATURE: torch.tensor(temperature).log()}
    if bias is not None:
        state[BIAS] = torch.tensor(bias)
    run.write_weights(run.trained, state)


def load_pairs(folder: str | Path, module: nn.Module | None = None) -> PairEncoder:
    """Load the trained towers of a run.

    Args:
        folder: the run's folder.
        module: the user's own image tower, of the trained architecture; None if the run has none.

    Raises:
        UserError: the folder is not a run of pairs, has saved no towers yet, or a tower does not
            fit.
    """
    if not is_pair_run(folder):
        raise UserError(f"run: {folder} was trained on images alone; give a run of sogclr align")
    run = Run(folder)
    if not run.trained.is_file():
        raise UserError(f"run: {folder} has saved no towers yet; go on with --resume")
    spec = read_spec(run)
    if spec.custom and module is None:
        raise UserError(
            f"run: {folder} has an image tower of your own; pass one of the same architecture: "
            "sogclr.load(run, module)"
        )
    towers = rebuild_towers(spec, run.text, None if module is None else unwrap(module))
    trained = run.read_weights(run.trained)
    try:
        temperature, bias = trained.pop(LOG_TEMPERATURE), trained.pop(BIAS, None)
        load_frozen(run, spec, towers)
        load_plain(PairModel(towers, spec.kinds, spec.frozen), trained)
        values = float(temperature), None if bias is None else float(bias)
    except (KeyError, RuntimeError) as error:
        raise _misfit(run, error) from error
    tokenizer = tokenizer_of(spec, towers, run.text)
    return PairEncoder(use_folder(spec, run.text), towers, tokenizer, *values)


def _misfit(run: Run, error: Exception) -> UserError:
    last = str(error).split("\n\t")[-1].strip()
    return UserError(f"run: the towers of {run.folder} do not fit: {last}")


def read_spec(run: Run) -> PairSpec:
    """Read the description of a run's towers.

    Raises:
        UserError: the description is missing, damaged or of another version.
    """
    spec = PairSpec.from_dict(read_json(run.towers_spec), f"run: {run.towers_spec}")
    if spec.needs_folder:
        require_no_code(run.text)
    if "hf_model_name" in spec.text and not (run.text / "config.json").is_file():
        raise UserError(f"run: {run.text / 'config.json'} is missing; put the file back")
    return spec


def load_frozen(run: Run, spec: PairSpec, towers: dict[str, Tower]) -> None:
    """Load the weights of frozen bodies into rebuilt towers.

    Raises:
        UserError: the file with the weights is missing or damaged, or the weights do not fit.
    """
    if not spec.frozen:
        return
    if not run.frozen.is_file():
        raise UserError(
            f"run: {run.frozen} is missing, which holds the weights of the frozen towers; put the "
            "file back"
        )
    state = run.read_weights(run.frozen)
    for kind in spec.frozen:
        prefix = kind + "."
        body = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        try:
            towers[kind].body.load_state_dict(body)
        except RuntimeError as error:
            raise _misfit(run, error) from error
