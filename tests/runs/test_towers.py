"""Towers of a run: nothing that is lost is made up, nothing that comes with it is executed."""

import shutil
from pathlib import Path

import pytest
import torch
from helpers.json_files import change_json

import sogclr
from sogclr import UserError
from sogclr.runs.folder import Run


@pytest.fixture
def copied(joined, tmp_path):
    """A run with a frozen Hugging Face text tower, to be changed."""
    shutil.copytree(joined, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize(
    "name", ["frozen.safetensors", "towers.json", "text", "trained.safetensors"]
)
def test_a_lost_file_is_not_replaced_by_random_weights(copied, pairs, name):
    path = copied / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match=rf"{name} is missing|has saved no towers"):
        sogclr.load(copied)
    if name != "trained.safetensors":  # which the checkpoint has too
        with pytest.raises(UserError, match=f"{name} is missing"):
            sogclr.align(pairs, copied, resume=True)


def test_frozen_weights_that_lack_a_tower_are_refused(copied):
    run = Run(copied)
    weights = run.read_weights(run.frozen)
    name = next(name for name in weights if name.endswith(".weight"))
    run.write_weights(run.frozen, {key: weights[key] for key in weights if key != name})
    with pytest.raises(UserError, match="do not fit"):
        sogclr.load(copied)
    run.write_weights(run.frozen, {"other.weight": torch.zeros(1)})
    with pytest.raises(UserError, match="do not fit"):
        sogclr.load(copied)


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: spec["text"].update(tokenizer_kwargs={"trust_remote_code": True}),
        lambda spec: spec["text"].update(tokenizer_kwargs={"bpe_path": "/etc/passwd"}),
        lambda spec: spec["text"].update(code_revision="main"),
        lambda spec: spec["vision"].update(timm_model_name="hf-hub:someone/model"),
        lambda spec: spec["vision"].update(timm_model_name="local-dir:/tmp"),
        lambda spec: spec["vision"].update(checkpoint_path="weights.pt"),
        lambda spec: spec.update(trust_remote_code=True),
        lambda spec: spec["vision"].update(image_size=10**9),
        lambda spec: spec.update(width=10**12),
        lambda spec: spec.update(mean=[0.5]),
        lambda spec: spec.update(std=[0, 0, 0]),
        lambda spec: spec.update(kinds=["image", "sound"]),
        lambda spec: spec.update(vision=None),
    ],
    ids=range(13),
)
def test_towers_are_built_of_known_options_only(copied, change):
    change_json(copied / "towers.json", change)
    with pytest.raises(UserError, match=r"run: .*towers.json: ") as error:
        sogclr.load(copied)
    assert "\n" not in error.value.args[0]


CODE = "from pathlib import Path\nPath({!r}).touch()\nclass T: pass\n"


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("config.json", {"auto_map": {"AutoConfig": "code.T", "AutoModel": "code.T"}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["code.T", None]}}),
        ("config.json", {"attn_implementation": "someone/kernel"}),
        ("config.json", {"_attn_implementation": "someone/kernel"}),
        ("config.json", {"quantization_config": {"quant_method": "x"}}),
        ("config.json", {"model_type": "unknown"}),
    ],
)
@pytest.mark.parametrize("with_file", [True, False])
def test_code_of_a_run_is_never_executed(copied, tmp_path, name, entry, with_file):
    proof = tmp_path / "executed"
    if with_file:
        (copied / "text" / "code.py").write_text(CODE.format(str(proof)))
    change_json(copied / "text" / name, lambda content: content.update(entry))
    with pytest.raises(UserError, match=r"executed; remove|does not build"):
        sogclr.load(copied)
    assert not proof.exists()


@pytest.mark.parametrize("name", ["tokenizer_config.json", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("content", [None, "", "[]"])
def test_a_tokenizer_that_has_lost_files_is_one_line(copied, name, content):
    path = copied / "text" / name
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(
        UserError, match=r"^(run: |--text-tower: the tokenizer .* could not)"
    ) as error:
        sogclr.load(copied).encode_text(["a picture", "a"])
    assert "\n" not in error.value.args[0]


@pytest.mark.parametrize("name", ["weights.bin", "model.pkl", "code.py", "config.json.so"])
def test_files_that_are_no_tokenizer_are_refused(copied, name):
    (copied / "text" / name).write_bytes(b"")
    with pytest.raises(UserError, match="is neither configuration nor tokenizer"):
        sogclr.load(copied)


def test_towers_load_without_what_is_refused(copied):
    assert Path(copied / "text").is_dir()
    assert sogclr.load(copied).encode_text(["a picture"]).shape[0] == 1
