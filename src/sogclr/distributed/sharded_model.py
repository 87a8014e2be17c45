"""Hold the weights of a model on several processes: all of them in each, or a shard in each.

Sharding is torch's `fully_shard`, through Fabric, for towers too large for each device. Weights,
gradients and optimizer state are divided among processes, and the weights of a block are gathered
while it computes. Gradients become the mean over processes, as under DDP: the losses rely on that.
Checkpoints hold full tensors in both cases, so that either kind of run can resume them.
"""

import warnings
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.strategies import ModelParallelStrategy
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ..common.console import say, setting_line
from ..common.environment import processes
from ..common.errors import UserError
from .blocks import repeated_blocks

__all__ = [
    "CopiedWeights",
    "ShardedWeights",
    "Weights",
    "choose_weights",
    "sharding_strategy",
]

State = TypeVar("State", bound=dict[Any, Any])


class Weights(ABC):
    """A strategy by which processes hold the weights of a model and exchange them with checkpoints.

    Args:
        fabric: device and processes.

    Attributes:
        are_sharded: whether a process holds only a part; a forward pass then takes all processes,
            and a process reads only its part of a checkpoint.
    """

    are_sharded: bool

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric

    @abstractmethod
    def set_up(self, model: nn.Module) -> Any:
        """Move the model to the device and return it as Fabric wraps it."""

    @abstractmethod
    def accumulate(self, model: Any, *, last: bool) -> AbstractContextManager:
        """Return the context of a backward pass.

        Args:
            model: the wrapped model.
            last: whether this is the last micro-batch of its step.
        """

    @abstractmethod
    def full_state(self, state: State) -> State:
        """Return a state_dict with full tensors; all processes call it.

        Only the first process may use the result.
        """

    @abstractmethod
    def load_model(self, model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Cut this process's part out of the full state_dict of the model."""

    @abstractmethod
    def load_optimizer(
        self, optimizer: torch.optim.Optimizer, state: dict[str, Any]
    ) -> dict[str, Any]:
        """Cut this process's part out of the full state_dict of the optimizer."""


class CopiedWeights(Weights):
    """Every process holds all weights."""

    are_sharded = False

    def set_up(self, model: nn.Module) -> Any:
        return self.fabric.setup_module(model.to(memory_format=torch.channels_last))

    def accumulate(self, model: Any, *, last: bool) -> AbstractContextManager:
        # Processes exchange gradients once a step, after its last micro-batch.
        several = self.fabric.world_size > 1
        return self.fabric.no_backward_sync(model, enabled=several and not last)

    def full_state(self, state: State) -> State:
        return state

    def load_model(self, model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return state

    def load_optimizer(
        self, optimizer: torch.optim.Optimizer, state: dict[str, Any]
    ) -> dict[str, Any]:
        return state


class ShardedWeights(Weights):
    """Every process holds a part of the weights."""

    are_sharded = True

    def set_up(self, model: nn.Module) -> Any:
        # Keep the memory format: fully_shard divides tensors along their first dimension.
        wrapped = self.fabric.setup_module(model)
        say(_describe(model))
        return wrapped

    def accumulate(self, model: Any, *, last: bool) -> AbstractContextManager:
        # Without an exchange after each micro-batch, FSDP would hold unsharded gradients.
        return nullcontext()

    def full_state(self, state: State) -> State:
        return _gather(state, keep=self.fabric.is_global_zero)

    def load_model(self, model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
        sharded = model.state_dict()
        return {name: _part(value, sharded.get(name)) for name, value in state.items()}

    def load_optimizer(
        self, optimizer: torch.optim.Optimizer, state: dict[str, Any]
    ) -> dict[str, Any]:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        of_weights = {
            number: {name: _part(value, weights[number]) for name, value in values.items()}
            for number, values in state["state"].items()
        }
        return {**state, "state": of_weights}


def choose_weights(fabric: Fabric) -> Weights:
    """Return how this Fabric holds weights: sharded if it was started with `shard_model`."""
    if isinstance(fabric.strategy, ModelParallelStrategy):
        return ShardedWeights(fabric)
    return CopiedWeights(fabric)


def sharding_strategy() -> ModelParallelStrategy:
    """Build the Fabric strategy by which every process has a shard of the weights."""
    return ModelParallelStrategy(
        lambda model, mesh: shard(model, mesh["data_parallel"]),
        data_parallel_size=processes(),
        tensor_parallel_size=1,
    )


def shard(model: nn.Module, mesh: Any) -> nn.Module:
    """Divide the weights among the processes of a mesh of one dimension.

    Weights are gathered block by block. The other weights of a tower are gathered together, so
    that a tower can be called alone, and so are the other weights of the model.

    Raises:
        UserError: a parameter cannot be divided.
    """
    _copy_from_first_process(model, mesh)
    # Innermost first: fully_shard takes only parameters that are not wrapped yet.
    for module in dict.fromkeys([*reversed(repeated_blocks(model)), *_towers(model), model]):
        fully_shard(module, mesh=mesh)
    for module in (*_towers(model), model):
        # torch warns that a returned view must not change in place. Outputs of towers never do.
        warning = rf"FSDP2-wrapped module \({type(module).__name__}\) returned a view"
        warnings.filterwarnings("ignore", warning)
    return model


def _copy_from_first_process(model: nn.Module, mesh: Any) -> None:
    """Copy weights and buffers from the first process to all, as DDP does.

    The initial weights of a user's own module differ from process to process.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if isinstance(tensor, nn.Parameter) and not tensor.ndim:
            raise UserError(
                f"--shard-model: the parameter {name} is a single number, which cannot be divided; "
                "leave the option out"
            )
        first = tensor.detach().to(mesh.device_type).contiguous()
        dist.broadcast(first, src=0, group=mesh.get_group())
        # contiguous() above: fully_shard divides a tensor along its first dimension.
        tensor.data = first.to(tensor.device)


def _towers(model: nn.Module) -> list[nn.Module]:
    """List the children of the model; a dictionary of modules counts as several children."""
    children = [
        each.values() if isinstance(each, nn.ModuleDict) else [each] for each in model.children()
    ]
    return [tower for towers in children for tower in towers]


def _describe(model: nn.Module) -> str:
    """Say in one line which part of the weights this process holds."""
    parameters = list(model.parameters())
    own = sum(p.to_local().numel() for p in parameters if isinstance(p, DTensor))
    total = sum(p.numel() for p in parameters)
    remark = f"{own:,} of {total:,} parameters in each of {processes()} processes"
    return setting_line("weights", "sharded", remark)


def _gather(state: State, *, keep: bool) -> State:
    """Gather full tensors to the CPU; all processes call it.

    Args:
        state: a state_dict, possibly nested.
        keep: whether this process keeps the tensors. Others get None for each sharded tensor, so
            that a machine does not hold a copy for every process.
    """

    def gather(part: DTensor) -> Tensor | None:
        tensor = part.full_tensor()
        return tensor.cpu() if keep else None

    return apply_to_collection(state, DTensor, gather)


def _part(value: Any, sharded: Tensor | None) -> Any:
    """Cut this process's part out of a full tensor.

    Args:
        value: a full tensor, or anything else, which is returned as it is.
        sharded: the tensor of the same name in this process.
    """
    if not isinstance(sharded, DTensor) or not isinstance(value, Tensor):
        return value
    if value.shape != sharded.shape:
        return value
    # Clone: a view would keep the full tensor in memory.
    mesh, placements = sharded.device_mesh, sharded.placements
    return distribute_tensor(value, mesh, placements, src_data_rank=None).clone()
