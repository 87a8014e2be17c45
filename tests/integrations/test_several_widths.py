"""Losses of sentence-transformers that call GlobalRankingLoss several times in a step."""

import copy
import pickle

import pytest
import torch

pytest.importorskip("sentence_transformers")
pytest.importorskip("datasets")

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    AdaptiveLayerLoss,
    Matryoshka2dLoss,
    MatryoshkaLoss,
)
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch.utils.checkpoint import checkpoint
from transformers import BertConfig, BertModel, BertTokenizerFast

from sogclr import GlobalClipLoss, IndividualTemperature, LearnedTemperature
from sogclr.integrations.sentence_transformers import GlobalRankingLoss

ROWS, BATCH, WIDTH = 12, 6, 16


@pytest.fixture
def model(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(ROWS))]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(words), intermediate_size=16, **sizes)).save_pretrained(
        tmp_path
    )
    torch.manual_seed(0)
    layers = [Transformer(str(tmp_path)), Pooling(WIDTH)]
    return SentenceTransformer(modules=layers, device="cpu").eval()  # without dropout


def batches(model, count=4):
    for step in range(count):
        ids = [(BATCH * step + place) % ROWS for place in range(BATCH)]
        texts = [f"w{i} w{2 * i % ROWS}" for i in ids], [f"w{i}" for i in ids]
        yield [model.preprocess(side) for side in texts], torch.tensor(ids)[:, None]


def make(model, temperature=0.05):
    return GlobalRankingLoss(model, ROWS, temperature=temperature)


TEMPERATURES = {
    "constant": lambda: 0.05,
    "learned": LearnedTemperature,
    "individual": lambda: IndividualTemperature(rho=1.0),
}


@pytest.mark.parametrize("dims", [[WIDTH, 8], [WIDTH, 8, 3], [8, 3]])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_each_width_has_what_a_loss_of_its_own_has(model, dims, temperature):
    loss = make(model, TEMPERATURES[temperature]())
    several = MatryoshkaLoss(model, loss, dims)
    apart = {
        dim: GlobalClipLoss(ROWS, temperature=TEMPERATURES[temperature](), effective_negatives=255)
        for dim in dims
    }
    for columns, labels in batches(model):
        features = [model(dict(column))["sentence_embedding"].detach() for column in columns]
        value = several([dict(column) for column in columns], labels)
        expected = sum(
            own(*(side[:, :dim].clone().requires_grad_() for side in features), labels[:, 0])
            for dim, own in apart.items()
        )
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
        value.backward()
    tables = loss.tables()
    assert sorted(tables) == sorted(dims)
    for dim, own in apart.items():
        torch.testing.assert_close(tables[dim], own.state_dict(), rtol=1e-4, atol=1e-4)
    if temperature == "learned":  # one parameter for all widths
        assert len(list(loss.parameters())) == len(list(make(model, 0.05).parameters())) + 1


def test_tables_of_all_widths_are_restored(model):
    loss, other = make(model), make(model)
    several = MatryoshkaLoss(model, loss, [WIDTH, 8, 3], n_dims_per_step=2)
    for columns, labels in batches(model, 8):
        several(columns, labels).backward()
    other.restore(loss.tables())
    for each in (other, copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        tables = each.tables()
        assert list(tables) == list(loss.tables())
        for width, table in loss.tables().items():
            torch.testing.assert_close(tables[width], table, rtol=0, atol=0)


class Several(torch.nn.Module):
    """Calls a loss as AdaptiveLayerLoss and Matryoshka2dLoss do: again with the same width."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def forward(self, columns, labels):
        return self.loss(columns, labels) + 0.5 * self.loss(columns, labels)


@pytest.mark.parametrize("inner", ["alone", "in MatryoshkaLoss"])
def test_several_layers_are_refused(model, inner):
    loss = make(model)
    within = loss if inner == "alone" else MatryoshkaLoss(model, loss, [WIDTH, 8])
    columns, labels = next(batches(model))
    with pytest.raises(ValueError, match="times in a step for embeddings of one width"):
        Several(within)(columns, labels)


@pytest.mark.parametrize("kind", [AdaptiveLayerLoss, Matryoshka2dLoss])
def test_the_losses_of_the_library_that_train_layers_are_refused(model, kind):
    more = ([WIDTH, 8],) if kind is Matryoshka2dLoss else ()
    with pytest.raises(ValueError, match="called several times in a step"):
        kind(model, make(model), *more)(*next(batches(model)))


def test_the_same_batch_in_the_next_step_is_no_second_call(model):
    loss = make(model)
    columns, labels = next(batches(model))
    for _ in range(3):
        loss(columns, labels).backward()
    assert loss.contrast.normalizer_a.visits[:BATCH].tolist() == [3] * BATCH
    with torch.no_grad():
        loss(columns, labels)
        loss(columns, labels)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpointed_loss_counts_each_visit_once_or_is_refused(model, reentrant):
    columns, labels = next(batches(model))
    loss, start = make(model), torch.zeros((), requires_grad=True)
    value = checkpoint(lambda x: loss(columns, labels) + x, start, use_reentrant=reentrant)
    if reentrant:
        with pytest.raises(RuntimeError, match="checkpoint to the encoder, not to the loss"):
            value.backward()
    else:  # torch stops before it would compute the loss again
        value.backward()
        assert loss.contrast.normalizer_a.visits[:BATCH].tolist() == [1] * BATCH
