"""Find the blocks of a model: the units that are sharded, and that are computed a second time."""

from collections import Counter

from torch import nn

__all__ = ["repeated_blocks"]


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """Find repeated blocks, such as layers of a transformer.

    A block has children, and another module of its class stands in the same list.
    """
    blocks: list[nn.Module] = []
    for layers in model.modules():
        if isinstance(layers, nn.Sequential | nn.ModuleList):
            classes = Counter(map(type, layers))
            blocks += [m for m in layers if classes[type(m)] > 1 and any(m.children())]
    return [m for m in blocks if not isinstance(m, nn.ModuleList | nn.ModuleDict)]
