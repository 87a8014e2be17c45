"""What a run on pairs leaves of its towers, and how they are had again.

towers.json           how to build the towers and what they expect as input
trained.safetensors   the weights that training changes, and the temperature
frozen.safetensors    the bodies of frozen towers, written once
text/                 configuration and tokenizer of a text tower, where they are Hugging Face's
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from ..common.errors import UserError
from ..data.views.pipeline import center_view, standardize
from ..models.build_towers import at_home, rebuild_towers, tokenizer_of
from ..models.tower_features import padding_of
from ..models.towers import PairModel, PairSpec, Tower
from .folder import Run, atomically, is_pair_run, pretty

__all__ = ["PairEncoder", "load_pairs", "pair_files", "write_start", "write_trained"]

LOG_TEMPERATURE, BIAS = "log_temperature", "bias"


class PairEncoder(nn.Module):
    """Trained towers, in eval mode.

    Args:
        spec: of the towers.
        towers: by kind.
        tokenizer: of texts.
        log_temperature: of the loss they were trained with, its mean where it is one a sample.
        bias: of SigLIP's loss, or None.
    """

    def __init__(
        self,
        spec: PairSpec,
        towers: dict[str, Tower],
        tokenizer: Any,
        log_temperature: float,
        bias: float | None = None,
    ) -> None:
        super().__init__()
        self.spec, self.tokenizer = spec, tokenizer
        self.log_temperature, self.bias = log_temperature, bias
        self.towers = nn.ModuleDict(towers)
        self._padding = padding_of(spec, tokenizer)
        self.eval()

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Texts to unit vectors `(n, d)`."""
        tokens = self.tokenizer(list(texts))
        if self._padding is not None:
            tokens = tokens[:, : int((tokens != self._padding).sum(dim=1).max())]
        return self._encode("text", tokens)

    @torch.no_grad()
    def encode_image(self, images: Tensor | Sequence[Image.Image]) -> Tensor:
        """Pillow images, or `(n, 3, S, S)` as `preprocess` makes them, to unit vectors `(n, d)`."""
        if not isinstance(images, Tensor):
            images = torch.stack([self.preprocess(image) for image in images])
        return self._encode("image", images)

    def preprocess(self, image: Image.Image) -> Tensor:
        """A Pillow image to the input of the image tower, `(3, S, S)` float32."""
        view = center_view(image.convert("RGB"), self.spec.image_size, share=1.0, sharp=True)
        pixels = torch.from_numpy(view)[None].float() / 255
        return standardize(pixels, self.spec.mean, self.spec.std)[0]

    def _encode(self, kind: str, inputs: Tensor) -> Tensor:
        if kind not in self.towers:
            raise UserError(f"this run was trained on {' and '.join(self.spec.kinds)}: no {kind}s")
        device = next(self.towers.parameters()).device
        return normalize(self.towers[kind](inputs.to(device))[1].float(), dim=-1)

    def to_open_clip(self) -> nn.Module:
        """The towers as an open_clip model (`CustomTextCLIP`), with the same weights.

        Raises:
            UserError: two texts, or an image tower of one's own: open_clip has no such model.
        """
        from open_clip import CustomTextCLIP

        spec = self.spec
        if spec.vision is None or spec.custom:
            what = "an image tower of your own" if spec.custom else "no image tower"
            raise UserError(f"open_clip: the run has {what}, which open_clip cannot build")
        text = {**spec.text, "hf_model_pretrained": False}
        vision = {**spec.vision, "timm_model_pretrained": False}
        model = CustomTextCLIP(
            spec.width, vision, text, quick_gelu=spec.quick_gelu, init_logit_bias=self.bias
        )
        for kind, name in (("image", "visual"), ("text", "text")):
            tower: Any = self.towers[kind]
            getattr(model, name).load_state_dict(tower.open_clip_state())
        with torch.no_grad():
            model.logit_scale.fill_(-self.log_temperature)
        return model.eval()


def pair_files(run: Run) -> dict[str, Path]:
    """Where the files of the module's list are."""
    folder = run.folder
    return {
        "spec": folder / "towers.json",
        "trained": folder / "trained.safetensors",
        "frozen": folder / "frozen.safetensors",
        "text": folder / "text",
    }


def write_start(run: Run, spec: PairSpec, towers: dict[str, Tower], tokenizer: Any) -> None:
    """What does not change while training."""
    files = pair_files(run)
    atomically(files["spec"], lambda path: path.write_text(pretty(spec.as_dict())))
    frozen = {
        f"{kind}.{name}": value
        for kind in spec.frozen
        for name, value in _plain(towers[kind].body.state_dict()).items()
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
    """What training changes; `weights` is the state of a `PairModel`."""
    state = _plain(weights)
    state[LOG_TEMPERATURE] = torch.tensor(temperature).log()
    if bias is not None:
        state[BIAS] = torch.tensor(bias)
    atomically(pair_files(run)["trained"], lambda path: save_file(state, path))


def load_pairs(run: str | Path, module: nn.Module | None = None) -> PairEncoder:
    """The towers of a run.

    Args:
        run: its folder.
        module: an image tower of the architecture trained, where it was the user's own.

    Raises:
        UserError: not a run, nothing saved in it yet, or a tower that does not fit.
    """
    if not is_pair_run(run):
        raise UserError(f"run: {run} was trained on images alone; give one of sogclr align")
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
        at_home(spec, files["text"]),
        towers,
        tokenizer_of(spec, files["text"]),
        float(temperature),
        None if bias is None else float(bias),
    )


def read_spec(run: Run) -> PairSpec:
    """The description of a run's towers."""
    return PairSpec.from_dict(json.loads(pair_files(run)["spec"].read_text()))


def load_frozen(run: Run, towers: dict[str, Tower]) -> None:
    """The frozen bodies, into towers that were built anew."""
    target = pair_files(run)["frozen"]
    state = load_file(target) if target.is_file() else {}
    for kind in {name.split(".")[0] for name in state}:
        prefix = kind + "."
        body = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        towers[kind].body.load_state_dict(body)


def _plain(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
