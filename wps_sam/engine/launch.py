"""Runs work in this process, in one for each GPU, in several on the CPU, or as one of those that torchrun started."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import launch as launch_gpus
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from .. import stops
from ..config import read_config
from ..user_errors import USER_ERRORS, one_line

Work = Callable[[argparse.Namespace], Any]


def launch(main: Work, args: argparse.Namespace) -> None:
    """Runs ``main(args)`` in this process, or in one process for each GPU, or in ``--num-processes`` on the CPU.

    A process that torchrun has started, or whatever else sets its variables, becomes the one that they say it is, and
    ends as one process does: torchrun looks after the others.

    Detectron2's own launch takes NCCL wherever it sees a GPU (always, in version 0.6), so that
    processes on the CPU are started here.

    A request to stop is handed on to all of several processes. When one of them ends, so do the others, those that do
    not answer after half a minute.

    Raises:
        ValueError: what a process of several raised for the user's eyes; of one process as it came. Or torchrun and
            the arguments both ask for processes.
        ChildProcessError: one of several was killed.
        Stopped: they were asked to stop.
        SystemExit: with the code with which a process ended.
    """
    asked_for = args.num_machines * (args.num_processes or args.num_gpus)
    if stops.started_by_torchrun():
        if asked_for > 1:
            raise ValueError(
                f"--num-gpus, --num-processes and --num-machines ask for {asked_for} processes, but this is one of "
                f"{os.environ['WORLD_SIZE']} that torchrun has started: leave them out"
            )
        _join(main, args)
        return
    if asked_for <= 1:
        main(args)
        return
    # The first to fail is told; that the others are ended then is no news.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    asked: list[int] = []

    def hand_on(signum: int, _: FrameType | None) -> None:
        for child in multiprocessing.active_children():
            with suppress(ProcessLookupError):
                # They finish what they are at; who asks once more does not want to wait for that.
                os.kill(child.pid, signal.SIGKILL if asked else signum)  # type: ignore[arg-type]
        asked.append(signum)

    with tempfile.TemporaryDirectory() as folder, stops.handled(hand_on):
        try:
            if args.num_processes:
                # On one machine a file is a safer meeting point than a port, which another run may hold.
                meeting_point = args.dist_url if args.num_machines > 1 else f"file://{folder}/meeting_point"
                torch.multiprocessing.spawn(_run_on_cpu, (main, args, folder, meeting_point), args.num_processes)
            else:
                shape = (args.num_gpus, args.num_machines, args.machine_rank, args.dist_url)
                launch_gpus(_run, *shape, (main, args, folder))
        except (ProcessRaisedException, ProcessExitedException) as error:
            reason = _reason(error, Path(folder), asked)
            if reason is error:
                raise
            raise reason from error


def _reason(error: Exception, folder: Path, asked: list[int]) -> BaseException:
    """What ended several processes, given what was seen of the first that ended and what each of them wrote."""

    def told(kind: str) -> list[str]:
        return [text for text in (path.read_text("utf-8") for path in sorted(folder.glob(f"{kind}_*"))) if text]

    ended = error.exit_code if isinstance(error, ProcessExitedException) else 0
    # Those on one machine may have been asked by name, too.
    stopped = asked[:1] or [ended - 128] * (ended - 128 in (signal.SIGTERM, signal.SIGINT))
    if stopped:
        return stops.Stopped(stopped[0], *told("stop")[:1])
    if errors := told("error"):
        return ValueError(errors[0])
    if ended < 0:
        return ChildProcessError(
            f"process {error.error_index} was ended by {signal.Signals(-ended).name}, and with it the run"  # type: ignore[attr-defined]
            + ("; perhaps the memory was used up" if ended == -signal.SIGKILL else "")
        )
    return SystemExit(ended) if ended else error


def _run(main: Work, args: argparse.Namespace, folder: str) -> None:
    """Runs the work in one of several processes; of what it raises only a trace would reach the first process."""
    try:
        with stops.handled(stops.raise_stopped):
            main(args)
    except KeyboardInterrupt as stop:
        # The main process knows what is left, and has the first name.
        Path(folder, f"stop_{comm.get_rank():06}").write_text(str(stop), "utf-8")
        raise SystemExit(stops.exit_code(stop)) from None
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


def _join(main: Work, args: argparse.Namespace) -> None:
    """The work in a process of torchrun's, on the GPU of its number where MODEL.DEVICE is one."""
    local_rank = int(os.environ["LOCAL_RANK"])
    on_gpu = read_config(args.config_file, args.opts).MODEL.DEVICE.startswith("cuda") and torch.cuda.is_available()
    if on_gpu:
        if local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"LOCAL_RANK is {local_rank}, but this machine has {torch.cuda.device_count()} GPUs: give torchrun "
                f"--nproc-per-node {torch.cuda.device_count()}"
            )
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    main(args)
    dist.destroy_process_group()
