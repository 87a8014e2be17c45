import copy
import json
import math
from pathlib import Path

import pytest
import torch

from sogclr import (
    ClipLoss,
    GlobalClipLoss,
    IndividualTemperature,
    LearnedTemperature,
)

pytest.importorskip("sentence_transformers")
pytest.importorskip("datasets")

from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizerFast, TrainerCallback

from sogclr.integrations.sentence_transformers import GlobalRankingLoss, with_sample_ids

ROWS, BATCH = 20, 6


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """Stay offline: the model card would look up base models on the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Save a BERT of one layer, with dropout and the vocabulary w0, w1, ..."""
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(3 * ROWS))]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(words), intermediate_size=16, **sizes)
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def model(folder):
    return build(folder)


def build(folder):
    return SentenceTransformer(modules=[Transformer(str(folder)), Pooling(16)], device="cpu")


def pairs(rows=ROWS, first=0):
    """Make pairs "wi w(2i)" and "w(2i)": the first word identifies pair i."""
    numbers = range(first, first + rows)
    return Dataset.from_dict(
        {"anchor": [f"w{i} w{2 * i}" for i in numbers], "positive": [f"w{2 * i}" for i in numbers]}
    )


def trainer(model, loss, dataset, out, callbacks=None, eval_dataset=None, optimizer=None, **args):
    settings = {"num_train_epochs": 2, "save_strategy": "no", **args}
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(out),
        per_device_train_batch_size=BATCH,
        learning_rate=settings.pop("learning_rate", 1e-2),
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        **settings,
    )
    return SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        eval_dataset=eval_dataset,
        loss=loss,
        callbacks=callbacks,
        optimizers=(optimizer, None),
    )


def features(model, texts):
    return model.preprocess(texts)


def batch(model, rows):
    """Return the arguments that a trainer passes to a loss."""
    chosen = pairs().select(rows)
    return [features(model, list(chosen[name])) for name in ("anchor", "positive")]


def embed(model, dataset):
    with torch.no_grad():
        return [
            model(features(model, list(dataset[name])))["sentence_embedding"]
            for name in ("anchor", "positive")
        ]


class Interrupt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


# Ids


def test_pairs_are_numbered_and_keep_their_numbers():
    numbered = with_sample_ids(pairs())
    assert numbered["label"] == [[i] for i in range(ROWS)]
    shuffled = numbered.shuffle(seed=0).select(range(5))
    assert [f"w{row['label'][0]}" for row in shuffled] == [r["anchor"].split()[0] for r in shuffled]


def test_ids_of_a_dict_continue_from_one_dataset_to_the_next():
    numbered = with_sample_ids({"one": pairs(4), "two": pairs(3)})
    assert numbered["one"]["label"] == [[0], [1], [2], [3]]
    assert numbered["two"]["label"] == [[4], [5], [6]]


def test_a_transform_survives_numbering():
    loud = pairs(2).with_transform(
        lambda rows: rows | {"anchor": [a + "!" for a in rows["anchor"]]}
    )
    assert with_sample_ids(loud)[1] == {"anchor": "w1 w2!", "positive": "w2", "label": [1]}


@pytest.mark.parametrize("name", ["label", "labels", "score", "scores"])
def test_a_taken_label_column_is_refused(name):
    taken = pairs().add_column(name, [1] * ROWS)
    with pytest.raises(ValueError, match=f"column '{name}'.*remove_columns"):
        with_sample_ids(taken)


def test_a_stream_is_refused():
    with pytest.raises(TypeError, match="IterableDataset"):
        with_sample_ids(pairs().to_iterable_dataset())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "no sample ids: train on with_sample_ids"),
        (torch.tensor([0, 1, 1]), "not sample ids"),
        (torch.tensor([[0.5], [1.0], [0.1]]), "not sample ids"),
    ],
)
def test_what_is_not_an_id_is_refused(model, labels, message):
    loss = GlobalRankingLoss(model, ROWS)
    with pytest.raises(ValueError, match=message):
        loss(batch(model, [0, 1, 2]), labels)


def test_an_id_out_of_range_is_refused(model):
    with pytest.raises(IndexError, match="sample id 7 is outside"):
        GlobalRankingLoss(model, 7)(batch(model, [0, 1]), torch.tensor([[0], [7]]))


def test_hard_negatives_are_refused(model):
    loss = GlobalRankingLoss(model, ROWS)
    three = [*batch(model, [0, 1]), features(model, ["w5", "w6"])]
    with pytest.raises(ValueError, match="hard negatives"):
        loss(three, torch.tensor([[0], [1]]))


# The loss


@pytest.mark.parametrize("chosen", [{}, {"effective_negatives": None}, {"effective_negatives": 31}])
def test_it_is_the_two_way_loss_of_the_embeddings(model, chosen):
    model.eval()
    options = {"temperature": 0.1, "gamma_min": 0.3, "gamma_decay_visits": 4}
    loss = GlobalRankingLoss(model, ROWS, **options, **chosen)
    reference = GlobalClipLoss(ROWS, **options, **{"effective_negatives": 255, **chosen})
    for rows in ([0, 5, 2], [5, 7, 0], [5, 1, 0]):
        value = loss(batch(model, rows), torch.tensor(rows)[:, None])
        expected = reference(*embed(model, pairs().select(rows)), torch.tensor(rows))
        assert torch.equal(value, expected)
        assert value.requires_grad


def test_without_gradients_it_is_the_loss_of_the_batch(model):
    model.eval()
    temperature = LearnedTemperature(0.2)
    loss = GlobalRankingLoss(model, ROWS, temperature=temperature, effective_negatives=2)
    loss(batch(model, [0, 1, 2]), torch.tensor([[0], [1], [2]]))
    with torch.no_grad():
        value = loss(batch(model, [0, 1, 2]), None)
    # Each anchor has two negatives: their mean stands where CLIP's loss has their sum.
    clip = ClipLoss(0.2)(*embed(model, pairs().select([0, 1, 2])))
    assert torch.allclose(value, clip - math.log(2))
    assert loss.contrast.normalizer_a.visits.sum() == 3


def test_every_visit_lands_in_its_row(folder, tmp_path):
    """The trainer shuffles with two workers and drops the last batch; weights are frozen."""
    model = build(folder)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    loss = GlobalRankingLoss(model, ROWS, temperature=0.5)
    seen = []

    def note(module, inputs):
        tokens, labels = inputs[0][0]["input_ids"], inputs[1]
        # The first token identifies the pairs; w0 is token 5.
        seen.append((tokens[:, 1] - 5).tolist())
        assert seen[-1] == labels.squeeze(1).tolist()

    loss.register_forward_pre_hook(note)
    dataset = with_sample_ids(pairs()).shuffle(seed=3)
    workers = {"dataloader_num_workers": 2, "dataloader_drop_last": True}
    trainer(model, loss, dataset, tmp_path, learning_rate=0.0, **workers).train()

    assert len(seen) == 2 * (ROWS // BATCH)
    assert seen[0] != sorted(seen[0])
    model.eval()
    sides = [torch.nn.functional.normalize(side, dim=1) for side in embed(model, pairs())]
    for normalizer, (own, other) in (
        (loss.contrast.normalizer_a, sides),
        (loss.contrast.normalizer_b, sides[::-1]),
    ):
        for row in range(ROWS):
            estimates = [
                sum(math.exp(float(own[row] @ other[j]) / 0.5) for j in rows if j != row)
                / (BATCH - 1)
                for rows in seen
                if row in rows
            ]
            assert normalizer.visits[row] == len(estimates)
            if estimates:  # after at most 2 visits, u is the plain mean
                expected = math.log(sum(estimates) / len(estimates))
                assert float(normalizer.log_u[row]) == pytest.approx(expected, abs=1e-5)


def test_evaluation_needs_no_ids_and_leaves_the_table_alone(model, tmp_path):
    loss = GlobalRankingLoss(model, ROWS)
    run = trainer(
        model,
        loss,
        with_sample_ids(pairs()),
        tmp_path,
        eval_dataset=pairs(10, first=ROWS),
        eval_strategy="epoch",
    )
    run.train()
    assert loss.contrast.normalizer_a.visits[:-1].tolist() == [2] * ROWS
    assert sum("eval_loss" in entry for entry in run.state.log_history) == 2


def test_a_learned_temperature_is_in_the_optimizer(model, tmp_path):
    temperature = LearnedTemperature(0.1)
    loss = GlobalRankingLoss(model, ROWS, temperature=temperature)
    rates = {"learning_rate": 0.0, "learning_rate_mapping": {"log_temperature": 0.1}}
    trainer(model, loss, with_sample_ids(pairs()), tmp_path, **rates).train()
    assert abs(temperature.log_temperature.item() - math.log(0.1)) > 0.01


# Several datasets


def test_one_loss_for_several_datasets(model, tmp_path):
    datasets = with_sample_ids({"one": pairs(12), "two": pairs(8, first=12)})
    loss = GlobalRankingLoss(model, ROWS)
    trainer(model, loss, datasets, tmp_path).train()
    assert loss.contrast.normalizer_a.visits[:-1].tolist() == [2] * ROWS


def test_a_loss_for_each_dataset(model, tmp_path):
    datasets = {"one": with_sample_ids(pairs(12)), "two": with_sample_ids(pairs(8, first=12))}
    losses = {name: GlobalRankingLoss(model, len(part)) for name, part in datasets.items()}
    trainer(model, losses, datasets, tmp_path).train()
    for name, part in datasets.items():
        assert losses[name].contrast.normalizer_b.visits[:-1].tolist() == [2] * len(part)


# Checkpoints


def single(model, temperature):
    return GlobalRankingLoss(model, ROWS, temperature=temperature), with_sample_ids(pairs())


def double(model):
    datasets = {"one": with_sample_ids(pairs(12)), "two": with_sample_ids(pairs(8, first=12))}
    return {name: GlobalRankingLoss(model, len(part)) for name, part in datasets.items()}, datasets


@pytest.mark.parametrize(
    "job",
    [
        lambda model: single(model, LearnedTemperature(0.1)),
        lambda model: single(model, IndividualTemperature(0.1, rho=1.0)),
        double,
    ],
    ids=["learned", "individual", "a loss for each dataset"],
)
def test_resumed_is_uninterrupted(folder, tmp_path, job):
    """A run stopped after step 5 resumes from the checkpoint of step 3 with new objects."""

    def run(callbacks=None, resume=None, **args):
        model = build(folder)
        loss, dataset = job(model)
        trainer(model, loss, dataset, tmp_path, callbacks, **args).train(resume)
        losses = loss if isinstance(loss, dict) else {"": loss}
        tables = {n: each.contrast.state_dict() for n, each in losses.items()}
        flat = {f"{n} {key}": value for n, table in tables.items() for key, value in table.items()}
        return model.state_dict() | flat

    whole = run()
    with pytest.raises(KeyboardInterrupt):
        run([Interrupt(5)], save_strategy="steps", save_steps=3)
    resumed = run(resume=True)
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_a_checkpoint_without_its_table_is_noticed(folder, tmp_path):
    def start(**args):
        model = build(folder)
        loss = GlobalRankingLoss(model, ROWS)
        args = {"save_strategy": "epoch", "save_only_model": True, **args}
        return trainer(model, loss, with_sample_ids(pairs()), tmp_path, **args)

    start(num_train_epochs=1).train()
    with pytest.warns(UserWarning, match="holds no table"):
        start().train(resume_from_checkpoint=True)


def test_an_optimizer_without_the_loss_is_noticed(model, tmp_path):
    loss = GlobalRankingLoss(model, ROWS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    run = trainer(model, loss, with_sample_ids(pairs()), tmp_path, optimizer=optimizer)
    with pytest.warns(UserWarning, match=r"loss\.parameters\(\)") as noticed:
        run.train()
    assert len(noticed) == 1


def test_of_several_losses_the_trainers_own_is_stored(model, tmp_path):
    loss = copy.deepcopy(GlobalRankingLoss(model, ROWS))
    model = loss.model
    unused = GlobalRankingLoss(model, 5)
    run = trainer(model, loss, with_sample_ids(pairs()), tmp_path, save_strategy="epoch")
    run.train()
    stored = torch.load(next(tmp_path.glob("checkpoint-*")) / "optimizer.pt", weights_only=True)
    (tables,) = stored["state"]["sogclr"]  # of one loss, by width
    assert {width: len(table["normalizer_a.table"]) for width, table in tables.items()} == {
        16: ROWS + 1
    }
    assert unused.contrast.normalizer_a.visits.sum() == 0


def test_the_trained_model_is_a_plain_one(model, tmp_path):
    loss = GlobalRankingLoss(model, ROWS)
    trainer(model, loss, with_sample_ids(pairs()), tmp_path / "run").train()
    model.save_pretrained(str(tmp_path / "model"))
    modules = json.loads((tmp_path / "model" / "modules.json").read_text())
    assert all(module["type"].startswith("sentence_transformers.") for module in modules)
    loaded = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert torch.equal(*(m.encode(["w1 w2"], convert_to_tensor=True) for m in (model, loaded)))
    card = (tmp_path / "model" / "README.md").read_text()
    assert '"num_samples": 20' in card
    assert "Yuan, Zhuoning" in card


@pytest.mark.filterwarnings("ignore:'pin_memory'")  # in the example the trainer chooses the device
def test_the_example_of_the_docs(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model.save_pretrained("all-MiniLM-L6-v2")  # a folder of this name has priority over the hub
    page = Path(__file__).parents[2] / "docs" / "sentence_transformers.md"
    names: dict = {}
    exec(page.read_text().split("```python\n")[1].split("```")[0], names)
    visits = names["trainer"].loss.contrast.normalizer_a.visits
    assert visits[:-1].tolist() == [3] * 64
