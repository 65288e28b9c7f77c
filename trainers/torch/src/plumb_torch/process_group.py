"""The processes that train a job together, as torchrun starts them."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from .denoiser import Denoiser
from .errors import misconfigured

Parallel = Literal["ddp", "fsdp"]
# A process that waits longer than this for the others gives up, so that torchrun starts all of them again.
_PATIENCE = timedelta(minutes=30)


class ProcessGroup:
    """This process among those that train together; alone where torchrun did not start it."""

    def __init__(self, device: str) -> None:
        """`device` is cpu or cuda; each process takes the GPU of its local rank."""
        self.is_distributed = "WORLD_SIZE" in os.environ
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        if device == "cuda":
            if not torch.cuda.is_available():
                raise misconfigured("--device", "is cuda, but PyTorch sees no GPU here; use cpu")
            torch.cuda.set_device(local_rank)
            self.device = torch.device("cuda", local_rank)
        else:
            self.device = torch.device("cpu")
        if self.is_distributed:
            dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=_PATIENCE)
        self.rank = dist.get_rank() if self.is_distributed else 0
        self.size = dist.get_world_size() if self.is_distributed else 1

    @property
    def is_first(self) -> bool:
        """The process that writes."""
        return self.rank == 0

    def rows(self, batch_size: int) -> range:
        """
        This process's share of a batch.

        Raises JobError where the batch cannot be shared evenly.
        """
        if batch_size % self.size != 0:
            raise misconfigured(
                "torchrun",
                f"starts {self.size} processes, among which optimisation.batchSize {batch_size} cannot be shared evenly; "
                "change one of them",
            )
        share = batch_size // self.size
        return range(self.rank * share, (self.rank + 1) * share)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over processes of a tensor that all have."""
        if self.size == 1:
            return values
        total = values.detach().clone()
        dist.all_reduce(total)
        return total / self.size

    def batch_mean(self, values: Tensor) -> Tensor:
        """The mean over the rows of all processes, of values of equally many rows each."""
        return self.mean(values.mean())

    def from_first(self, value: int) -> int:
        """What the first process has."""
        if self.size == 1:
            return value
        shared = torch.tensor(value, dtype=torch.int64, device=self.device)
        dist.broadcast(shared, 0)
        return int(shared.item())

    def shard(self, model: Denoiser) -> None:
        """Spreads the weights of a model over the processes (FSDP2)."""
        mesh = init_device_mesh(self.device.type, (self.size,))
        for block in model.blocks():
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)

    def replicate(self, loss: nn.Module) -> nn.Module:
        """Averages gradients over processes that have all weights (DDP)."""
        ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(loss, device_ids=ids, gradient_as_bucket_view=True)

    def close(self) -> None:
        if self.is_distributed:
            dist.destroy_process_group()


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that lies here."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; every process has to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def spread_like(values: Tensor, like: Tensor) -> Tensor:
    """The part of `values`, which all processes have, that lies here of a tensor spread as `like`."""
    if not isinstance(like, DTensor):
        return values
    # Every process has read the same file: nothing has to be sent.
    return distribute_tensor(values, like.device_mesh, like.placements, src_data_rank=None).to_local()
