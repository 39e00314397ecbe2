"""Runs work in this process, in one for each GPU, or in several on the CPU."""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import launch as launch_gpus
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from ..user_errors import USER_ERRORS, one_line

Work = Callable[[argparse.Namespace], Any]


def launch(main: Work, args: argparse.Namespace) -> None:
    """Runs ``main(args)`` in this process, or in one process for each GPU, or in ``--num-processes`` on the CPU.

    Detectron2's own launch takes NCCL wherever it sees a GPU (always, in version 0.6), so that
    processes on the CPU are started here.

    Raises:
        ValueError: what a process of several raised for the user's eyes; of one process as it came.
        SystemExit: with the code with which a process ended.
    """
    if args.num_machines * (args.num_processes or args.num_gpus) <= 1:
        main(args)
        return
    # The first to fail is told; that the others are ended then is no news.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        try:
            if args.num_processes:
                # On one machine a file is a safer meeting point than a port, which another run may hold.
                meeting_point = args.dist_url if args.num_machines > 1 else f"file://{folder}/meeting_point"
                torch.multiprocessing.spawn(_run_on_cpu, (main, args, folder, meeting_point), args.num_processes)
            else:
                shape = (args.num_gpus, args.num_machines, args.machine_rank, args.dist_url)
                launch_gpus(_run, *shape, (main, args, folder))
        except (ProcessRaisedException, ProcessExitedException) as error:
            told = [text for text in (p.read_text("utf-8") for p in sorted(Path(folder).glob("error_*"))) if text]
            if told:
                raise ValueError(told[0]) from error
            if isinstance(error, ProcessExitedException) and error.signal_name is None:
                raise SystemExit(error.exit_code) from error
            raise


def _run(main: Work, args: argparse.Namespace, folder: str) -> None:
    """Runs the work in one of several processes; of what it raises only a trace would reach the first process."""
    try:
        main(args)
    except USER_ERRORS as error:
        Path(folder, f"error_{comm.get_rank():06}").write_text(one_line(error), "utf-8")
        raise


def _run_on_cpu(local_rank: int, main: Work, args: argparse.Namespace, folder: str, url: str) -> None:
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // args.num_processes))
    world_size = args.num_machines * args.num_processes
    rank = args.machine_rank * args.num_processes + local_rank
    dist.init_process_group("gloo", init_method=url, world_size=world_size, rank=rank)
    _run(main, args, folder)
    dist.destroy_process_group()
