"""The options of open_clip that a configuration may have, and code that is never run."""

import json
import shutil

import pytest

open_clip = pytest.importorskip("open_clip")

import sogclr  # noqa: E402
from sogclr import UserError  # noqa: E402
from sogclr.common.options import TowerSettings  # noqa: E402
from sogclr.models.build_towers import build_towers  # noqa: E402
from sogclr.models.tower_keys import require_no_code, require_text, require_vision  # noqa: E402

KINDS = ("image", "text")


def test_all_models_of_open_clip_have_known_options():
    # These are no towers of two sides alone, or of timm's models before a change of their names.
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        require_vision(config["vision_cfg"], f"{name}: vision_cfg")
        require_text(config["text_cfg"], f"{name}: text_cfg")


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer_kwargs": {"trust_remote_code": True}},
        {"tokenizer_kwargs": {"cache_dir": "/tmp"}},
        {"hf_model_config": {"auto_map": {}}},
        {"act_kwargs": {"inplace": True}},
        {"norm_kwargs": {"eps": "1"}},
        {"layers": 10**6},
        {"vocab_size": 10**12},
        {"heads": "2"},
        {"width": -8},
        {"hf_pooler_type": "other"},
    ],
    ids=str,
)
def test_a_configuration_with_other_options_is_refused(make_config, change):
    request = TowerSettings(model=str(make_config(text_cfg=change)))
    with pytest.raises(UserError, match=r"--model: .*: text_cfg: ") as error:
        build_towers(request, KINDS, (), 16)
    assert "\n" not in error.value.args[0]


@pytest.mark.parametrize("with_type", [True, False])
def test_code_of_a_text_tower_is_never_executed(bert, tmp_path, make_pairs, with_type):
    folder, proof = tmp_path / "tower", tmp_path / "executed"
    shutil.copytree(bert, folder)
    code = f"open({str(proof)!r}, 'w')\nfrom transformers import BertConfig\nclass T(BertConfig):"
    (folder / "code.py").write_text(f"{code}\n    model_type = 'own'\n")
    for name in ("config.json", "tokenizer_config.json"):
        content = json.loads((folder / name).read_text())
        keys = ("AutoConfig", "AutoModel", "AutoTokenizer")
        content["auto_map"] = dict.fromkeys(keys, "code.T")
        if not with_type and name == "config.json":
            content["model_type"] = "own"
        (folder / name).write_text(json.dumps(content))
    if with_type:  # transformers builds this type itself
        settings = {"text_tower": str(folder), "epochs": 1, "batch_size": 8, "device": "cpu"}
        sogclr.align(make_pairs(), tmp_path / "run", image_size=16, **settings)
        text = sogclr.load(tmp_path / "run").towers["text"]
        assert type(text.body.config).__module__.startswith("transformers.")
    else:
        with pytest.raises(UserError, match="--text-tower: "):
            build_towers(TowerSettings(text_tower=str(folder)), KINDS, (), 16)
    assert not proof.exists()


@pytest.mark.parametrize(
    "content", ["{", "[]", "[" * 10**5, '{"model_type": "bert", "auto_map": {}}']
)
def test_a_folder_with_a_damaged_configuration_is_one_line(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config.json") as error:
        require_no_code(tmp_path)
    assert "\n" not in error.value.args[0]
