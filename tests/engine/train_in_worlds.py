"""Run by test_many_processes.py in a process of its own: trainings in 1, 2 and 4 processes, one stopped and resumed.

Python and PyTorch are started once, and all processes forked from that; what has computed gradients can't be forked, so
that this process trains nothing itself.

    python train_in_worlds.py CONFIG FOLDER
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from wps_sam import engine
from wps_sam.cli import parse
from wps_sam.stops import Stopped

import torch
from detectron2.utils import comm

FORK = torch.multiprocessing.start_processes


def train(args: argparse.Namespace) -> None:
    """The training, whose first gradients are kept; asked to stop in its first step where ``args.stop`` says so."""
    torch.set_num_threads(1)
    trainer = engine.Trainer(engine.setup(args))
    trainer.resume_or_load(resume=args.resume)
    after_step = type(trainer).after_step

    def keep(trainer: engine.Trainer) -> None:
        if trainer.iter == 0 and comm.is_main_process():
            grads = {n: p.grad.clone() for n, p in trainer.checkpointer.model.named_parameters() if p.grad is not None}
            torch.save(grads, Path(trainer.cfg.OUTPUT_DIR, "gradients.pth"))
        if args.stop and comm.get_rank() == 1:
            # One alone is asked.
            os.kill(os.getpid(), signal.SIGTERM)
        after_step(trainer)

    type(trainer).after_step = keep
    trainer.train()


def main(config: str, folder: str) -> None:
    torch.multiprocessing.spawn = lambda *args: FORK(*args, start_method="fork")
    for name, processes, more in (
        ("one", 1, ()),
        ("two", 2, ()),
        ("four", 4, ()),
        ("stopped", 2, ("--stop",)),
        ("stopped", 2, ("--resume",)),
    ):
        run = [arg for arg in more if arg != "--stop"]
        opts = ["OUTPUT_DIR", str(Path(folder, name))]
        args = parse("train", ["--config-file", config, "--num-processes", str(processes), *run, *opts])
        args.stop = "--stop" in more
        try:
            if processes == 1:
                FORK(lambda _, args: train(args), (args,), 1, start_method="fork")
            else:
                engine.launch(train, args)
        except Stopped as stop:
            print(name, stop.signum, stop)


if __name__ == "__main__":
    main(*sys.argv[1:])
