"""Compute the activations of a model's blocks twice, to save memory.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174: of each block only
the input is kept for the backward pass, which computes the rest of the block again.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from ..common.console import say, setting_line
from ..common.errors import UserError
from ..distributed.blocks import repeated_blocks

__all__ = ["recompute_blocks"]


def recompute_blocks(*models: nn.Module) -> None:
    """Make the backward pass compute the innermost repeated blocks again, instead of storing them.

    Losses, gradients and running statistics stay the same, also with dropout.

    Raises:
        UserError: the models have no repeated blocks.
    """
    blocks = [block for model in models for block in repeated_blocks(model)]
    inner = [b for b in blocks if not any(m in blocks for m in b.modules() if m is not b)]
    if not inner:
        raise UserError(
            "--checkpoint-activations: has no effect, since nothing that is trained has repeated "
            "blocks; leave it out"
        )
    for block in inner:
        block.forward = partial(
            checkpoint, block.forward, use_reentrant=False, context_fn=partial(_contexts, block)
        )
    remark = f"again in the backward pass, in {len(inner)} blocks, to save memory"
    say(setting_line("activations", "computed", remark))


def _contexts(block: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Return the contexts of the first and of the second forward pass of a block."""
    return nullcontext(), _without_statistics(block)


@contextmanager
def _without_statistics(block: nn.Module) -> Iterator[None]:
    """Keep batch normalizations from counting the same batch a second time."""
    layers = [m for m in block.modules() if isinstance(m, _NormBase) and m.track_running_stats]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
            if layer.training and layer.num_batches_tracked is not None:
                layer.num_batches_tracked -= 1
