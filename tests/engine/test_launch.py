"""Several processes: what one of them has to tell the user arrives in the first."""

from __future__ import annotations

import argparse

from wps_sam.engine import launch

import pytest
from detectron2.utils import comm


def fail_in_the_second(args: argparse.Namespace) -> None:
    if comm.get_rank() == 1:
        raise ValueError("a.json:\n  images[1] is missing")
    comm.synchronize()


def test_the_message_of_any_process_is_raised_here() -> None:
    args = argparse.Namespace(num_machines=1, machine_rank=0, num_processes=2, num_gpus=1, dist_url="auto")
    with pytest.raises(ValueError, match=r"^a\.json: images\[1\] is missing$"):
        launch(fail_in_the_second, args)


def test_one_process_is_this_one() -> None:
    args = argparse.Namespace(num_machines=1, num_processes=1, num_gpus=1)
    with pytest.raises(ValueError, match=r"^a\.json:\n"):
        launch(lambda _: (_ for _ in ()).throw(ValueError("a.json:\nb")), args)
