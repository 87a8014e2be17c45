"""SogCLR for pairs of texts: a loss for the stock trainer of sentence-transformers.

    dataset = with_sample_ids(dataset)
    loss = GlobalRankingLoss(model, num_samples=len(dataset))
    trainer = SentenceTransformerTrainer(model, args, train_dataset=dataset, loss=loss)

Two things have to get through a trainer that knows nothing of them:

    ids     The collator hands the loss one label a row. Ids travel as such labels, each a list
            of one number: a class or a score is never taken for an id.
    table   Checkpoints hold the model and the optimizer, and nothing of a loss. What is
            remembered travels in the optimizer's state (`optimizer.pt`), put there and taken
            out again by a callback. Importing this module adds it to those that every
            `Trainer` starts with; it leaves alone a trainer without a `GlobalRankingLoss`.
"""

import warnings
from collections.abc import Iterable
from functools import partial
from itertools import accumulate
from typing import Any, TypeVar
from weakref import WeakSet

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import DEFAULT_CALLBACKS

from ..losses import DecoupledClipLoss, GlobalClipLoss
from ..losses.contrast import Scale
from ..losses.temperature import IndividualTemperature, Temperature

__all__ = ["GlobalRankingLoss", "with_sample_ids"]

# The names that the stock collator takes for labels, in its order; ids take the first.
LABEL_COLUMNS = ("label", "labels", "score", "scores")
STATE = "sogclr"

_losses: "WeakSet[GlobalRankingLoss]" = WeakSet()  # all that are alive

CITATION = """
@inproceedings{yuan2022provable,
    title = "Provable Stochastic Optimization for Global Contrastive Learning: Small Batch Does Not Harm Performance",
    author = "Yuan, Zhuoning and Wu, Yuexin and Qiu, Zi-Hao and Du, Xianzhi and Zhang, Lijun and Zhou, Denny and Yang, Tianbao",
    booktitle = "Proceedings of the 39th International Conference on Machine Learning",
    year = "2022",
    url = "https://arxiv.org/abs/2202.12387",
}
"""  # noqa: E501

AnyDataset = TypeVar("AnyDataset", Dataset, dict[str, Dataset])


def with_sample_ids(dataset: AnyDataset) -> AnyDataset:
    """Number the rows, in a column that the stock collator passes to the loss.

    Do it once, before anything shuffles, filters or splits: the numbers stay with their rows.

    Args:
        dataset: two columns of text; or a dict of such datasets, which are then numbered on
            from one to the next, so that a single loss can serve them all
            (`num_samples=sum(map(len, dataset.values()))`). For a loss each, number each.

    Returns:
        The same with a last column "label", `[i]` in row i.

    Raises:
        ValueError: a column is there already that the collator would take for labels.
        TypeError: not a `Dataset`; a stream has no row numbers.
    """
    if isinstance(dataset, dict):
        starts = accumulate(map(len, dataset.values()), initial=0)
        parts = zip(dataset.items(), starts, strict=False)  # one start more than parts
        return type(dataset)({name: _number(part, start) for (name, part), start in parts})
    return _number(dataset, 0)


class GlobalRankingLoss(nn.Module):
    """SogCLR for pairs of texts, in the place of `MultipleNegativesRankingLoss`.

    Both directions, each with one remembered normalizer a sample, so that the gradient aims at
    the softmax over all pairs and not at the one over the batch. The ids that this takes come
    from `with_sample_ids`. Evaluation is on other pairs, about which nothing is remembered:
    without gradients the loss is that of the batch alone (`DecoupledClipLoss`), at the initial
    temperature where each sample has its own, and needs no ids.

    Args:
        model: the model that is trained.
        num_samples: number of pairs in the training set.
        temperature: tau, a number, or a `LearnedTemperature` or `IndividualTemperature` of
            `sogclr`. 0.05, as `MultipleNegativesRankingLoss` with its scale of 20.
        gamma_min: smallest weight of a new estimate, see `sogclr.GlobalClipLoss`.
        gamma_decay_visits: see there.
        effective_negatives: number of negatives of average weight that a positive competes with. 255, what
            `MultipleNegativesRankingLoss` aims at with a batch of 256; None for SogCLR as
            published, which goes on pushing pairs that are told apart already.
        scale: "cross-entropy" as `MultipleNegativesRankingLoss`, so that learning rates carry over;
            or "temperature", see `sogclr.losses`.

    Raises:
        ValueError: not two columns of text, no ids, or a label column of something else.
        IndexError: an id is not below num_samples.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        num_samples: int,
        *,
        temperature: float | Temperature = 0.05,
        gamma_min: float = 0.2,
        gamma_decay_visits: int | None = None,
        effective_negatives: float | None = 255,
        scale: Scale = "cross-entropy",
    ) -> None:
        super().__init__()
        self.model = model
        self.contrast = GlobalClipLoss(
            num_samples,
            temperature=temperature,
            gamma_min=gamma_min,
            gamma_decay_visits=gamma_decay_visits,
            effective_negatives=effective_negatives,
            scale=scale,
        )
        self.in_batch = DecoupledClipLoss(
            temperature.initial if isinstance(temperature, IndividualTemperature) else temperature,
            scale=scale,
            process_group=None,
        )
        self.in_batch.effective_negatives = effective_negatives
        self.config = {
            "num_samples": num_samples,
            "temperature": repr(temperature) if isinstance(temperature, nn.Module) else temperature,
            "gamma_min": gamma_min,
            "gamma_decay_visits": gamma_decay_visits,
            "effective_negatives": effective_negatives,
            "scale": scale,
        }
        # It never has a gradient. An optimizer that holds it belongs to this loss's trainer.
        self.token = nn.Parameter(torch.zeros(()))
        self.left_out = False
        _losses.add(self)

    def forward(
        self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None
    ) -> Tensor:
        """The loss of a batch of pairs; with gradients enabled, updates the table.

        Args:
            sentence_features: tokenized anchors and positives.
            labels: `(B, 1)` integers, the ids; without gradients they are not looked at.

        Returns:
            A scalar.
        """
        columns = _two_columns(list(sentence_features))
        if torch.is_grad_enabled():
            index = _ids(labels)
            self._check_trainer()
            return self.contrast(*self._embed(columns), index)
        return self.in_batch(*self._embed(columns))

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says of the loss."""
        return self.config

    @property
    def citation(self) -> str:
        return CITATION

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        _losses.add(self)  # copies and what was pickled come by this way

    def _embed(self, columns: list[dict[str, Tensor]]) -> list[Tensor]:
        return [self.model(features)["sentence_embedding"] for features in columns]

    def _check_trainer(self) -> None:
        if self.left_out:
            self.left_out = False
            warnings.warn(
                "checkpoints of this trainer will not hold what GlobalRankingLoss remembers: "
                "make the optimizer from loss.parameters(), not from model.parameters()",
                stacklevel=3,
            )


class _TableInCheckpoints(TrainerCallback):
    """Adds the tables to the optimizer's state when it is saved; takes them out after a resume."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # What accelerate wraps is the one whose state is loaded and saved.
        optimizer = getattr(kwargs["optimizer"], "optimizer", kwargs["optimizer"])
        losses = _losses_of(kwargs["model"], optimizer)
        if not losses:
            return
        # A load keeps keys of the state that it does not know, so here is what was stored.
        stored = optimizer.state.pop(STATE, None)
        if stored is not None:
            for loss, remembered in zip(losses, stored, strict=True):
                loss.contrast.load_state_dict(remembered)
        elif state.global_step > 0:
            warnings.warn(
                "the checkpoint holds no table of GlobalRankingLoss (was it saved with "
                "save_only_model?): all normalizers start anew, which takes epochs to recover",
                stacklevel=2,
            )
        # A second train() adds the hook once more, which then writes the same twice.
        optimizer.register_state_dict_post_hook(partial(_store, losses))


def _losses_of(model: nn.Module, optimizer: Optimizer) -> list[GlobalRankingLoss]:
    """The losses of this model that this optimizer holds, in its order (that of their dict)."""
    losses = [loss for loss in _losses if any(module is model for module in loss.modules())]
    if not losses:
        return []
    parameters = [id(p) for group in optimizer.param_groups for p in group["params"]]
    for loss in losses:
        loss.left_out = id(loss.token) not in parameters
    held = [loss for loss in losses if not loss.left_out]
    return sorted(held, key=lambda loss: parameters.index(id(loss.token)))


def _store(
    losses: list[GlobalRankingLoss], optimizer: Optimizer, state_dict: dict[str, Any]
) -> None:
    state_dict["state"][STATE] = [loss.contrast.state_dict() for loss in losses]


def _number(dataset: Dataset, start: int) -> Dataset:
    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"rows of a {type(dataset).__name__} have no numbers: with_sample_ids needs a "
            "datasets.Dataset, or a dict of them"
        )
    taken = [name for name in LABEL_COLUMNS if name in dataset.column_names]
    if taken:
        raise ValueError(
            f"the dataset has a column {taken[0]!r}, which the collator takes for labels where "
            f"the sample ids have to be: dataset.remove_columns({taken}) first"
        )
    ids = [[row] for row in range(start, start + len(dataset))]
    view = dataset.format  # a transform would be lost with the old table
    return dataset.add_column(LABEL_COLUMNS[0], ids).with_format(
        view["type"], output_all_columns=view["output_all_columns"], **view["format_kwargs"]
    )


def _two_columns(columns: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    if len(columns) != 2:
        raise ValueError(
            f"GlobalRankingLoss compares two columns of text, anchor and positive, and got "
            f"{len(columns)}; explicit hard negatives, as MultipleNegativesRankingLoss takes them, "
            "are not used: dataset.select_columns([anchor, positive, 'label'])"
        )
    return columns


def _ids(labels: Tensor | None) -> Tensor:
    if labels is None:
        raise ValueError(
            "the batch has no sample ids: train on with_sample_ids(dataset), from "
            "sogclr.integrations.sentence_transformers"
        )
    if labels.ndim != 2 or labels.shape[1] != 1 or labels.dtype.is_floating_point:
        raise ValueError(
            f"the labels of the batch are not sample ids (shape {tuple(labels.shape)}, "
            f"{labels.dtype}): remove the dataset's column of labels or scores, then train on "
            "with_sample_ids(dataset)"
        )
    return labels.squeeze(1)


# transformers annotates the list by its one entry; a `Trainer` takes any callback.
DEFAULT_CALLBACKS.append(_TableInCheckpoints)  # type: ignore[arg-type]
