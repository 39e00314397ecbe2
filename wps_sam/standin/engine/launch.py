"""``launch``: one function in one or several processes."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ..utils import comm

DEFAULT_TIMEOUT = timedelta(minutes=30)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("", 0))
        return sock.getsockname()[1]


def launch(
    main_func: Callable[..., Any],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> Any:
    """Runs ``main_func(*args)`` in ``num_gpus_per_machine`` processes here, of ``num_machines`` such.

    One process in all: in this one. Otherwise processes are spawned and meet at ``dist_url`` ("auto": a
    free port, on one machine), with nccl where there are GPUs, else with gloo.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size <= 1:
        return main_func(*args)
    if dist_url == "auto":
        if num_machines != 1:
            raise ValueError("dist_url 'auto' works on one machine only")
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    if num_machines > 1 and str(dist_url).startswith("file://"):
        logging.getLogger(__name__).warning("a file:// URL is not reliable with several machines: use tcp://")
    mp.spawn(
        _worker,
        nprocs=num_gpus_per_machine,
        args=(main_func, world_size, num_gpus_per_machine, machine_rank, dist_url, args, timeout),
    )


def _worker(
    local_rank: int,
    main_func: Callable[..., Any],
    world_size: int,
    num_gpus_per_machine: int,
    machine_rank: int,
    dist_url: str,
    args: tuple,
    timeout: timedelta,
) -> None:
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        if num_gpus_per_machine > torch.cuda.device_count():
            raise ValueError(f"--num-gpus {num_gpus_per_machine}, but there are {torch.cuda.device_count()}")
        torch.cuda.set_device(local_rank)
    dist.init_process_group(
        backend="nccl" if on_gpu else "gloo",
        init_method=dist_url,
        world_size=world_size,
        rank=machine_rank * num_gpus_per_machine + local_rank,
        timeout=timeout,
    )
    comm.create_local_process_group(num_gpus_per_machine)
    # Only once all are here is the group sure to be usable.
    comm.synchronize()
    main_func(*args)
    dist.destroy_process_group()
