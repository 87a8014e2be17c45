"""Choose what of a run is published: its model and its settings, and nothing of the machine.

settings.json keeps numbers, and names that libraries know. Neither paths, nor sample ids, nor what
the run has stored of samples leaves the machine, unless log u is asked for.
"""

import json
import re
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from safetensors.torch import save_file

from ..common.errors import UserError
from ..planning.settings_images import ImageSettings
from ..planning.settings_pairs import PairSettings
from .folder import Run, is_pair_run
from .resume import read_resolved
from .stored import read_json, write_json
from .stored_samples import read_samples
from .towers import read_spec

__all__ = ["LOG_U", "public_settings", "require_nothing_private", "write_public_files"]

Settings = ImageSettings | PairSettings
LOG_U = "log_u.safetensors"
# Files that consist of a vocabulary, whose words say nothing of the machine.
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt")
READ_AS_TEXT = (".json", ".md", ".txt", ".jinja")


def write_public_files(run: Run, folder: Path, *, with_log_u: bool) -> None:
    """Write the files of which `sogclr.load` builds the model, without what is private.

    Args:
        run: the run.
        folder: an empty folder.
        with_log_u: whether to write log u of the samples, with their ids, too.

    Raises:
        UserError: a file of the run is missing or damaged, it has saved no model yet, or log u is
            asked for and is not there.
    """
    of_pairs = is_pair_run(run.folder)
    kind: Any = PairSettings if of_pairs else ImageSettings
    settings = public_settings(read_resolved(run.read_settings(), kind))
    copy = Run(folder)
    kinds = {"kind": "pairs"} if of_pairs else {}
    copy.write_settings({**kinds, "resolved": settings.as_dict()})
    if of_pairs:
        spec = read_spec(run).as_dict()
        names = {"hf_model_name", "hf_tokenizer_name"} & spec["text"].keys()
        spec["text"] |= dict.fromkeys(names, copy.text.name)  # was perhaps a folder of this machine
        write_json(copy.towers_spec, spec)
        if run.text.is_dir():
            shutil.copytree(run.text, copy.text)
            for path in copy.text.glob("*config.json"):
                _drop_paths(path)
    else:
        write_json(copy.encoder_spec, read_json(run.encoder_spec))
    if not (run.trained if of_pairs else run.encoder).is_file():
        raise UserError(f"run: {run.folder} has saved no model yet; go on with --resume")
    for name in ("encoder", "trained", "frozen"):
        source = getattr(run, name)
        if source.is_file():
            run.digests.verify(source)
            shutil.copyfile(source, getattr(copy, name))
    if with_log_u:
        save_file(_log_u(run), folder / LOG_U)


def public_settings(settings: Settings) -> Settings:
    """Replace texts that may be paths or names of the user by their defaults.

    Numbers stay, and choices of an option, and names of models of timm.
    """
    import timm

    kind, kinds = type(settings), get_type_hints(type(settings))
    kept: dict[str, Any] = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, str) and not _is_choice(kinds[field.name], value):
            if value != "small" and not timm.is_model(value):
                continue
        elif isinstance(value, tuple | list):  # names of columns
            continue
        kept[field.name] = value
    if "model" in {field.name for field in fields(settings)}:
        # Without the name of an open_clip model, what belongs to one would contradict the rest.
        kept |= {"model": None, "pretrained": None}
    return kind(**kept)


def _is_choice(kind: Any, value: str) -> bool:
    """Tell whether a value is one of those that the type of an option lists."""
    kinds = (kind, *get_args(kind))
    return any(get_origin(each) is Literal and value in get_args(each) for each in kinds)


def _drop_paths(path: Path) -> None:
    """Drop entries of a configuration of transformers that name a file or folder."""
    found = json.loads(path.read_text(encoding="utf-8"))
    plain = {
        key: value
        for key, value in found.items()
        if not (key.endswith(("_file", "name_or_path")) or key == "cache_dir")
    }
    path.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")


def _log_u(run: Run) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for side, samples in read_samples(run).items():
        if samples.log_u is not None:
            ending = f"_{side}" if side else ""
            tensors[f"ids{ending}"] = torch.from_numpy(samples.ids.view("int64"))
            tensors[f"log_u{ending}"] = torch.from_numpy(samples.log_u)
    if not tensors:
        raise UserError(f"--log-u: {run.folder} keeps no log u of samples; leave it out")
    return tensors


def require_nothing_private(folder: Path, words: list[str]) -> None:
    """Refuse to publish files in which a word of this machine stands.

    Args:
        folder: the files that are to be published.
        words: paths of this machine.

    Raises:
        UserError: one of the words stands in a file, though none should.
    """
    for path in sorted(folder.rglob("*")):
        if path.suffix in READ_AS_TEXT and path.name not in VOCABULARIES:
            text = path.read_text(encoding="utf-8", errors="replace")
            for word in words:
                shown = "|".join(map(re.escape, {word, json.dumps(word)[1:-1]}))
                if re.search(rf"(?<![\w.-])({shown})(?![\w.-])", text):
                    raise UserError(
                        f"push: {path.relative_to(folder)} would hold {word}, a path of this "
                        "machine; nothing was pushed; correct the file in the run"
                    )
