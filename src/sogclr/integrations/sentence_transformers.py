"""SogCLR for pairs of texts: a loss for the stock trainer of sentence-transformers.

    dataset = with_sample_ids(dataset)
    loss = GlobalRankingLoss(model, num_samples=len(dataset))
    trainer = SentenceTransformerTrainer(model, args, train_dataset=dataset, loss=loss)

The trainer has no place for two things that the loss needs:

    sample ids   The collator passes one label of each pair to the loss. Sample ids are stored as
                 labels, each a list of one integer, so that a class or a score is never mistaken
                 for an id.
    table        Checkpoints hold the model and the optimizer, but not the loss. A callback stores
                 the table in the optimizer's state (`optimizer.pt`) and restores it from there.
                 Importing this module adds the callback to the defaults of every `Trainer`. It
                 does nothing for a trainer without a `GlobalRankingLoss`.
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

# Column names that the stock collator treats as labels, in its order; sample ids use the first.
LABEL_COLUMNS = ("label", "labels", "score", "scores")
STATE = "sogclr"  # key of the tables in the optimizer's state

_losses: "WeakSet[GlobalRankingLoss]" = WeakSet()  # all existing losses

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
    """Add a column of sample ids that the stock collator passes to the loss.

    Call it once, before the dataset is shuffled, filtered or split, so that each pair keeps its id.

    Args:
        dataset: a dataset with two columns of text, or a dict of such datasets. The ids of a dict
            continue from one dataset to the next, so that one loss can serve all of them with
            `num_samples=sum(map(len, dataset.values()))`. To use one loss for each dataset, call
            this function for each dataset.

    Returns:
        The dataset with a last column "label", which holds `[i]` for pair i.

    Raises:
        ValueError: the dataset has a column already that the collator would treat as labels.
        TypeError: the argument is not a `Dataset`; the pairs of a stream have no numbers.
    """
    if isinstance(dataset, dict):
        starts = accumulate(map(len, dataset.values()), initial=0)
        parts = zip(dataset.items(), starts, strict=False)  # starts has one more element
        return type(dataset)({name: _number(part, start) for (name, part), start in parts})
    return _number(dataset, 0)


class GlobalRankingLoss(nn.Module):
    """SogCLR for pairs of texts; replaces `MultipleNegativesRankingLoss`.

    The loss compares both directions and stores one normalizer of each sample in each direction.
    Its gradient estimates that of the softmax over all pairs instead of the softmax over the
    batch. Sample ids come from `with_sample_ids`.

    Without gradients (in evaluation) the pairs have no stored normalizers. The loss is then that
    of the batch alone (`DecoupledClipLoss`) and needs no sample ids. An `IndividualTemperature`
    is replaced by its initial value there.

    Args:
        model: the model that is trained.
        num_samples: number of pairs in the training set.
        temperature: tau: a number, or a `LearnedTemperature` or `IndividualTemperature` of
            `sogclr`. 0.05 equals the default scale of 20 in `MultipleNegativesRankingLoss`.
        gamma_min: smallest weight of a new estimate, see `sogclr.GlobalClipLoss`.
        gamma_decay_visits: visits over which that weight falls, see `sogclr.GlobalClipLoss`.
        effective_negatives: number of negatives of average weight that a positive competes with.
            255 corresponds to `MultipleNegativesRankingLoss` with a batch of 256. None gives
            SogCLR as published, which keeps separating pairs that are well separated already.
        scale: "cross-entropy", so that the learning rates of `MultipleNegativesRankingLoss` carry
            over; or "temperature", see `sogclr.losses`.

    Raises:
        ValueError: in `forward`, for other than two columns of text, for missing sample ids, and
            for a label column with other content.
        IndexError: in `forward`, for a sample id that is not below num_samples.
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
        self.in_batch.sums_negatives = False  # a mean as in the tables, so that values compare
        self.config = {
            "num_samples": num_samples,
            "temperature": repr(temperature) if isinstance(temperature, nn.Module) else temperature,
            "gamma_min": gamma_min,
            "gamma_decay_visits": gamma_decay_visits,
            "effective_negatives": effective_negatives,
            "scale": scale,
        }
        # A marker without gradients: an optimizer that holds it belongs to this loss's trainer.
        self.token = nn.Parameter(torch.zeros(()))
        self.missing_in_optimizer = False
        _losses.add(self)

    def forward(
        self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None
    ) -> Tensor:
        """Compute the loss of a batch of pairs; with gradients enabled, update the table.

        Args:
            sentence_features: tokenized anchors and tokenized positives.
            labels: `(B, 1)` integers, the sample ids; ignored without gradients.

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
        """Return the settings that the model card lists."""
        return self.config

    @property
    def citation(self) -> str:
        """The BibTeX entry that the model card lists."""
        return CITATION

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        _losses.add(self)  # copies and unpickled losses skip __init__

    def _embed(self, columns: list[dict[str, Tensor]]) -> list[Tensor]:
        """Return the embeddings `(B, d)` of each column."""
        return [self.model(features)["sentence_embedding"] for features in columns]

    def _check_trainer(self) -> None:
        """Warn once if checkpoints will not contain the table."""
        if self.missing_in_optimizer:
            self.missing_in_optimizer = False
            warnings.warn(
                "checkpoints of this trainer will not contain the table of GlobalRankingLoss: "
                "make the optimizer from loss.parameters(), not from model.parameters()",
                stacklevel=3,
            )


class _TableInCheckpoints(TrainerCallback):
    """Add the tables to the optimizer's state when it is saved, and restore them on resuming."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Checkpoints hold the state of the optimizer inside accelerate's wrapper.
        optimizer = getattr(kwargs["optimizer"], "optimizer", kwargs["optimizer"])
        losses = _losses_of(kwargs["model"], optimizer)
        if not losses:
            return
        # Loading keeps unknown keys of the state, so the stored tables are still in it.
        stored = optimizer.state.pop(STATE, None)
        if stored is not None:
            for loss, table in zip(losses, stored, strict=True):
                loss.contrast.load_state_dict(table)
        elif state.global_step > 0:
            warnings.warn(
                "the checkpoint holds no table of GlobalRankingLoss (was it saved with "
                "save_only_model?): all normalizers start empty and need epochs to recover",
                stacklevel=2,
            )
        # A second train() adds a second hook, which is harmless: it writes the same tables.
        optimizer.register_state_dict_post_hook(partial(_store, losses))


def _losses_of(model: nn.Module, optimizer: Optimizer) -> list[GlobalRankingLoss]:
    """Return the losses of this model that this optimizer holds, in the optimizer's order."""
    losses = [loss for loss in _losses if any(module is model for module in loss.modules())]
    if not losses:
        return []
    parameters = [id(p) for group in optimizer.param_groups for p in group["params"]]
    for loss in losses:
        loss.missing_in_optimizer = id(loss.token) not in parameters
    held = [loss for loss in losses if not loss.missing_in_optimizer]
    return sorted(held, key=lambda loss: parameters.index(id(loss.token)))


def _store(
    losses: list[GlobalRankingLoss], optimizer: Optimizer, state_dict: dict[str, Any]
) -> None:
    state_dict["state"][STATE] = [loss.contrast.state_dict() for loss in losses]


def _number(dataset: Dataset, start: int) -> Dataset:
    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"the pairs of a {type(dataset).__name__} have no numbers: with_sample_ids needs a "
            "datasets.Dataset, or a dict of them"
        )
    taken = [name for name in LABEL_COLUMNS if name in dataset.column_names]
    if taken:
        raise ValueError(
            f"the dataset has a column {taken[0]!r}, which the collator treats as labels and which "
            f"would replace the sample ids: call dataset.remove_columns({taken}) first"
        )
    ids = [[row] for row in range(start, start + len(dataset))]
    old_format = dataset.format  # add_column drops the format and its transform
    return dataset.add_column(LABEL_COLUMNS[0], ids).with_format(
        old_format["type"],
        output_all_columns=old_format["output_all_columns"],
        **old_format["format_kwargs"],
    )


def _two_columns(columns: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    if len(columns) != 2:
        raise ValueError(
            f"GlobalRankingLoss compares two columns of text, anchor and positive, and got "
            f"{len(columns)}; it does not use the explicit hard negatives of "
            "MultipleNegativesRankingLoss: "
            "call dataset.select_columns([anchor, positive, 'label'])"
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


# transformers annotates the list by the type of its one entry, but accepts any callback.
DEFAULT_CALLBACKS.append(_TableInCheckpoints)  # type: ignore[arg-type]
