"""``launch``: one function in one or several processes."""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ..utils import comm

DEFAULT_TIMEOUT = timedelta(minutes=30)


def launch(
    main_func: Callable[..., Any],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> None:
    """Runs ``main_func(*args)`` in ``num_gpus_per_machine`` processes here, of ``num_machines`` such.

    One process in all: in this one. Otherwise processes are spawned and meet at ``dist_url`` ("auto": a
    free port, on one machine), with nccl where there are GPUs, else with gloo.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size <= 1:
        main_func(*args)
        return
    if dist_url == "auto":
        if num_machines != 1:
            raise ValueError("dist_url 'auto' works on one machine only")
        with socket.create_server(("127.0.0.1", 0)) as sock:
            dist_url = f"tcp://127.0.0.1:{sock.getsockname()[1]}"
    first_rank = machine_rank * num_gpus_per_machine
    meeting = {"init_method": dist_url, "world_size": world_size, "timeout": timeout}
    mp.spawn(_run, (main_func, args, first_rank, num_gpus_per_machine, meeting), nprocs=num_gpus_per_machine)


def _run(
    local_rank: int, main_func: Callable[..., Any], args: tuple, first_rank: int, count: int, meeting: dict[str, Any]
) -> None:
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        if count > torch.cuda.device_count():
            raise ValueError(f"--num-gpus {count}, but there are {torch.cuda.device_count()}")
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if on_gpu else "gloo", rank=first_rank + local_rank, **meeting)
    comm.create_local_process_group(count)
    # Only once all are here is the group sure to be usable.
    comm.synchronize()
    main_func(*args)
    dist.destroy_process_group()
