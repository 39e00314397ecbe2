"""Runs work in this process, in one for each GPU, or in several on the CPU."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import launch as launch_gpus


def launch(main: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> None:
    """Runs ``main(args)`` in this process, or in one process for each GPU, or in ``--num-processes`` on the CPU.

    Detectron2's own launch takes NCCL wherever it sees a GPU (always, in version 0.6), so that
    processes on the CPU are started here.
    """
    if not args.num_processes:
        launch_gpus(main, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, (args,))
        return
    world_size = args.num_machines * args.num_processes
    if world_size == 1:
        main(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        # On one machine a file is a safer meeting point than a port, which another run may hold.
        meeting_point = args.dist_url if args.num_machines > 1 else f"file://{folder}/meeting_point"
        torch.multiprocessing.spawn(
            _run_on_cpu, nprocs=args.num_processes, args=(main, args, world_size, meeting_point)
        )


def _run_on_cpu(
    local_rank: int, main: Callable[[argparse.Namespace], Any], args: argparse.Namespace, world_size: int, url: str
) -> None:
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // args.num_processes))
    rank = args.machine_rank * args.num_processes + local_rank
    dist.init_process_group("gloo", init_method=url, world_size=world_size, rank=rank)
    main(args)
    dist.destroy_process_group()
