"""What the processes of one run tell each other; without a process group, a world of one."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

# The group of the processes on this machine; set by create_local_process_group.
_LOCAL_PROCESS_GROUP: dist.ProcessGroup | None = None


def _in_group() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Number of processes of the run."""
    return dist.get_world_size() if _in_group() else 1


def get_rank() -> int:
    """Index of this process in the run."""
    return dist.get_rank() if _in_group() else 0


def create_local_process_group(num_workers_per_machine: int) -> None:
    """Makes one group per machine; called by all processes, once, by ``launch`` itself."""
    global _LOCAL_PROCESS_GROUP
    if get_world_size() % num_workers_per_machine:
        raise ValueError(f"{get_world_size()} processes do not divide over machines of {num_workers_per_machine}")
    machine = get_rank() // num_workers_per_machine
    for i in range(get_world_size() // num_workers_per_machine):
        ranks = list(range(i * num_workers_per_machine, (i + 1) * num_workers_per_machine))
        group = dist.new_group(ranks)
        if i == machine:
            _LOCAL_PROCESS_GROUP = group


def get_local_process_group() -> dist.ProcessGroup:
    """The group of the processes on this machine."""
    if _LOCAL_PROCESS_GROUP is None:
        raise RuntimeError("no local process group: start with detectron2.engine.launch or create one")
    return _LOCAL_PROCESS_GROUP


def get_local_rank() -> int:
    """Index of this process on its machine."""
    return dist.get_rank(group=get_local_process_group()) if _in_group() else 0


def get_local_size() -> int:
    """Number of processes on this machine."""
    return dist.get_world_size(group=get_local_process_group()) if _in_group() else 1


def is_main_process() -> bool:
    """True in the process that writes files and logs."""
    return get_rank() == 0


def synchronize() -> None:
    """Waits until all processes are here."""
    if get_world_size() == 1:
        return
    if dist.get_backend() == "nccl":
        dist.barrier(device_ids=[torch.cuda.current_device()])
    else:
        dist.barrier()


@functools.lru_cache
def _gloo_group() -> dist.ProcessGroup:
    return dist.new_group(backend="gloo")


def _object_group() -> dist.ProcessGroup | None:
    # Objects are gathered as bytes on the CPU, which nccl cannot do.
    return _gloo_group() if dist.get_backend() == "nccl" else dist.group.WORLD


def all_gather(data: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Returns the picklable ``data`` of every rank, to every rank."""
    if get_world_size() == 1:
        return [data]
    group = group or _object_group()
    gathered: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(gathered, data, group=group)
    return gathered


def gather(data: Any, dst: int = 0, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Returns the picklable ``data`` of every rank on rank ``dst``, an empty list elsewhere."""
    if get_world_size() == 1:
        return [data]
    group = group or _object_group()
    gathered: list[Any] | None = [None] * dist.get_world_size(group) if dist.get_rank(group) == dst else None
    dist.gather_object(data, gathered, dst=dst, group=group)
    return gathered or []


def shared_random_seed() -> int:
    """A random number that is the same in all processes: rank 0's draw from numpy's generator."""
    return all_gather(int(np.random.randint(2**31)))[0]
