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
import weakref
from collections.abc import Iterable
from functools import partial
from typing import Any, cast
from weakref import WeakSet

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import DEFAULT_CALLBACKS

from ..losses import DecoupledClipLoss, GlobalClipLoss
from ..losses.base import Scale
from ..losses.temperature import IndividualTemperature, Temperature
from .sentence_columns import ids_in, two_columns, with_sample_ids

__all__ = ["GlobalRankingLoss", "with_sample_ids"]

STATE = "sogclr"  # key of the tables in the optimizer's state

_losses: "WeakSet[GlobalRankingLoss]" = WeakSet()  # all existing losses

# One line for each field, as in other BibTeX entries, however long.
CITATION = """
@inproceedings{yuan2022provable,
    title = "Provable Stochastic Optimization for Global Contrastive Learning: Small Batch Does Not Harm Performance",
    author = "Yuan, Zhuoning and Wu, Yuexin and Qiu, Zi-Hao and Du, Xianzhi and Zhang, Lijun and Zhou, Denny and Yang, Tianbao",
    booktitle = "Proceedings of the 39th International Conference on Machine Learning",
    year = "2022",
    url = "https://arxiv.org/abs/2202.12387",
}
"""  # noqa: E501


class GlobalRankingLoss(nn.Module):
    """SogCLR for pairs of texts; replaces `MultipleNegativesRankingLoss`.

    The loss compares both directions and stores one normalizer of each sample in each direction.
    Its gradient estimates that of the softmax over all pairs instead of the softmax over the
    batch. Sample ids come from `with_sample_ids`.

    Without gradients (in evaluation) the pairs have no stored normalizers. The loss is then that
    of the batch alone (`DecoupledClipLoss`) and needs no sample ids. An `IndividualTemperature`
    is replaced by its initial value there.

    `MatryoshkaLoss` calls this loss once for each width of the embeddings. Normalizers of different
    widths are not comparable, so each width has a table of its own. A loss that calls this one
    twice in a step with the same width, such as `AdaptiveLayerLoss`, is refused.

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
        ValueError: in `forward`, for other than two columns of text, for missing sample ids, for a
            label column with other content, and for several calls in a step
            with the same width.
        IndexError: in `forward`, for a sample id that is not below num_samples.
        RuntimeError: in `forward`, if `torch.utils.checkpoint` computes it again.
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
        # Losses of one LearnedTemperature share it; an IndividualTemperature is one for each loss.
        self._make_contrast = partial(
            GlobalClipLoss,
            num_samples,
            temperature=temperature,
            gamma_min=gamma_min,
            gamma_decay_visits=gamma_decay_visits,
            effective_negatives=effective_negatives,
            scale=scale,
        )
        self.contrast = self._make_contrast()
        self.width: int | None = None  # of the embeddings that `contrast` compares
        self.other_widths = nn.ModuleDict()  # the losses of other widths, by width
        self._seen: dict[int, Any] = {}  # by width, the labels of the last call, a weak reference
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
        columns = two_columns(list(sentence_features))
        if torch.is_grad_enabled():
            index = ids_in(labels)
            self._check_trainer()
            a, b = self._embed(columns)
            assert labels is not None
            self._check_repeated(a.shape[1], labels)
            value = self.contrast_of(a.shape[1])(a, b, index)
            if value.requires_grad:
                value.register_hook(self._end_step)
            return value
        return self.in_batch(*self._embed(columns))

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings that the model card lists."""
        return self.config

    @property
    def citation(self) -> str:
        """The BibTeX entry that the model card lists."""
        return CITATION

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_seen": {}}  # weak references cannot be pickled

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        _losses.add(self)  # copies and unpickled losses skip __init__

    def contrast_of(self, width: int) -> GlobalClipLoss:
        """Return the loss, with its table, that compares embeddings of this width."""
        if self.width is None:
            self.width = width
        if width == self.width:
            return self.contrast
        key = str(width)
        if key not in self.other_widths:
            self.other_widths[key] = self._make_contrast().to(self.token.device)
        return cast("GlobalClipLoss", self.other_widths[key])

    def tables(self) -> dict[int, dict[str, Any]]:
        """Return the state of the loss of each width, for a checkpoint."""
        if self.width is None:
            return {}
        others = {int(key): loss.state_dict() for key, loss in self.other_widths.items()}
        return {self.width: self.contrast.state_dict(), **others}

    def restore(self, tables: dict[int, dict[str, Any]]) -> None:
        """Load what `tables` returned."""
        for width, table in tables.items():
            self.contrast_of(width).load_state_dict(table)

    def _check_repeated(self, width: int, labels: Tensor) -> None:
        """Refuse several calls in a step that would write to the same rows of a table.

        Matryoshka2dLoss draws a width for each layer, so two of its calls may differ in width.
        AdaptiveLayerLoss, which it contains, replaces `forward` of the transformer in each step.
        """
        before = self._seen.get(width)
        replaced = (type(vars(m).get("forward")).__name__ for m in self.model.modules())
        if (before is not None and before() is labels) or "TransformerDecorator" in replaced:
            raise ValueError(
                "GlobalRankingLoss was called several times in a step for embeddings of one width, "
                "as AdaptiveLayerLoss does for several layers: one table cannot serve them; use "
                "it alone or in MatryoshkaLoss, or use MultipleNegativesRankingLoss there"
            )
        self._seen[width] = weakref.ref(labels)

    def _end_step(self, gradient: Tensor) -> None:
        """Forget the labels of the step, whose backward pass has begun."""
        self._seen.clear()

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
                loss.restore(table)
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
    state_dict["state"][STATE] = [loss.tables() for loss in losses]


# transformers annotates the list by the type of its one entry, but accepts any callback.
DEFAULT_CALLBACKS.append(_TableInCheckpoints)  # type: ignore[arg-type]
