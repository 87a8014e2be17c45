"""Two processes of sentence-transformers' trainer train the same model as one process."""

from pathlib import Path

import pytest
import torch
from helpers.launching import finished, torchrun

pytest.importorskip("sentence_transformers")

from transformers import BertConfig, BertModel, BertTokenizerFast

SCRIPT = str(Path(__file__).parents[1] / "helpers" / "train_texts.py")


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(40))]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    BertModel(
        BertConfig(vocab_size=len(words), intermediate_size=16, **sizes, **quiet)
    ).save_pretrained(tmp_path)
    for processes in (1, 2):
        out = tmp_path / str(processes)
        finished(torchrun(processes, SCRIPT, str(tmp_path), str(out), str(8 // processes)))
    one, two = (torch.load(tmp_path / str(count) / "state.pt") for count in (1, 2))
    initial = BertModel.from_pretrained(tmp_path).state_dict()
    trained = {name.split("model.")[-1]: each for name, each in one["model"].items()}
    assert any(not torch.allclose(trained[name], initial[name], atol=1e-3) for name in initial)
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    visits = [each[:, 1] for name, each in two["loss"].items() if name.endswith("table")]
    assert [each[:16].tolist() for each in visits] == [[2] * 16] * 2
