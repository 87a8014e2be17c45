"""Weights of which every process holds a part: towers too large to be copied to each device.

torch's `fully_shard`, through Fabric. Weights, gradients and the optimizer's state are divided
among processes, and a block's weights are gathered while it computes. Gradients become the mean
over processes, as under DDP: that is what the losses count on. What is saved is whole.
"""

import warnings
from collections import Counter
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.strategies import ModelParallelStrategy
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ..common.environment import processes
from ..common.errors import UserError

__all__ = [
    "are_sharded",
    "as_shards",
    "optimizer_as_shards",
    "require_shardable",
    "shard",
    "strategy",
    "told_of",
    "whole",
]

State = TypeVar("State", bound=dict[Any, Any])


def require_shardable(method: str) -> None:
    """Refuse what weights cannot be sharded for.

    Raises:
        UserError: one process, or a method with a second encoder.
    """
    if processes() == 1:
        raise UserError(
            "shard-model: there is one process, and nobody to share the weights with; "
            "start several with torchrun, or leave it out"
        )
    if method == "moco":
        raise UserError(
            "shard-model: moco's second encoder is not sharded; leave it out, or take another "
            "--method"
        )


def strategy() -> ModelParallelStrategy:
    """What Fabric is told: every process has a part of the weights and its share of a batch."""
    return ModelParallelStrategy(
        lambda model, mesh: shard(model, mesh["data_parallel"]),
        data_parallel_size=processes(),
        tensor_parallel_size=1,
    )


def are_sharded(fabric: Fabric) -> bool:
    """Whether weights are."""
    return isinstance(fabric.strategy, ModelParallelStrategy)


def shard(model: nn.Module, mesh: Any) -> nn.Module:
    """Divide the weights among the processes of a mesh of one dimension.

    What is gathered at a time: a block of a tower; what a tower has besides, so that one can be
    called alone; and the rest.

    Raises:
        UserError: a parameter cannot be divided.
    """
    _make_equal(model, mesh)
    # From within, since a module takes up what none within it has.
    for module in dict.fromkeys([*reversed(_blocks(model)), *_towers(model), model]):
        fully_shard(module, mesh=mesh)
    for module in (*_towers(model), model):
        # torch warns of views, lest they are changed in place: what towers return is not.
        told = rf"FSDP2-wrapped module \({type(module).__name__}\) returned a view"
        warnings.filterwarnings("ignore", told)
    return model


def _make_equal(model: nn.Module, mesh: Any) -> None:
    """As DDP does: what a user's own module was made with differs from process to process."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if isinstance(tensor, nn.Parameter) and not tensor.ndim:
            raise UserError(
                f"shard-model: the parameter {name} is a single number, which cannot be divided; "
                "leave the option out"
            )
        first = tensor.detach().to(mesh.device_type).contiguous()
        dist.broadcast(first, src=0, group=mesh.get_group())
        # Rows are divided as they are numbered.
        tensor.data = first.to(tensor.device)


def _blocks(model: nn.Module) -> list[nn.Module]:
    """Modules with parts of their own that stand in a row of their kind, as layers of towers do."""
    found = []
    for row in model.modules():
        if isinstance(row, nn.Sequential | nn.ModuleList):
            kinds = Counter(map(type, row))
            found += [each for each in row if kinds[type(each)] > 1 and any(each.children())]
    return [each for each in found if not isinstance(each, nn.ModuleList | nn.ModuleDict)]


def _towers(model: nn.Module) -> list[nn.Module]:
    children = [
        each.values() if isinstance(each, nn.ModuleDict) else [each] for each in model.children()
    ]
    return [tower for towers in children for tower in towers]


def told_of(model: nn.Module) -> str:
    """What became of a model's weights, in one line."""
    parameters = list(model.parameters())
    own = sum(p.to_local().numel() for p in parameters if isinstance(p, DTensor))
    total = sum(p.numel() for p in parameters)
    remark = f"{own:,} of {total:,} parameters in each of {processes()} processes"
    return f"  {'weights':<15} {'sharded':<12} {remark}"


def whole(state: State, *, kept: bool) -> State:
    """A state with whole tensors on the CPU. All processes call it; for those that do not keep it
    there is None instead of what was sharded, so that a machine does not hold it many times.

    Args:
        state: a state_dict, of whatever depth.
        kept: whether this process is to have it.
    """

    def gathered(part: DTensor) -> Tensor | None:
        tensor = part.full_tensor()
        return tensor.cpu() if kept else None

    return apply_to_collection(state, DTensor, gathered)


def as_shards(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """This process's parts of a whole state_dict, for a model that is sharded."""
    own = model.state_dict()
    return {name: _part(value, own.get(name)) for name, value in state.items()}


def optimizer_as_shards(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """This process's parts of the whole state_dict of an optimizer, whose weights are sharded."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    of_each = {
        number: {name: _part(value, weights[number]) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    return {**state, "state": of_each}


def _part(value: Any, like: Tensor | None) -> Any:
    """Of a tensor, what this process has of one that is sharded; whatever else, as it is."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    # Copied: a part that is a view would keep all of it in memory.
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None).clone()
