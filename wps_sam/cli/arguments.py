"""Arguments that several subcommands have in common."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from ..shares import WHOLE, Share

if TYPE_CHECKING:
    from ..predictor import PartPredictor


def add_config(parser: argparse.ArgumentParser) -> None:
    """A configuration, and overrides of its keys."""
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="a configuration; configs/... is found from any folder")
    add("opts", nargs="*", default=[], metavar="KEY VALUE", help="overrides of its keys, such as SOLVER.MAX_ITER 300")


def add_model(parser: argparse.ArgumentParser) -> None:
    """A trained model: its configuration and weights, without which the one that comes with the package is used."""
    add = parser.add_argument
    add("--config-file", metavar="FILE", help="the configuration it was trained with; default: the shipped model's")
    add("--weights", type=weights_file, metavar="FILE", help="default: the last checkpoint of the configuration's run")
    add("--model", metavar="NAME", help="the folder of a run or a saved model, or its name on the hub, if in the cache")
    add("--download", action="store_true", help="ask the hub for --model, too")


def load_model(args: argparse.Namespace, device: str | None = None, **settings: Any) -> PartPredictor:
    """The predictor of :func:`add_model`'s arguments, with these settings of it."""
    if args.model and (args.config_file or args.weights):
        raise ValueError("--model stands for --config-file and --weights: give either")
    if args.download and not args.model:
        raise ValueError("--download belongs to --model")
    from ..predictor import PartPredictor

    if args.model:
        return PartPredictor.from_pretrained(args.model, device, download=args.download, **settings)
    return PartPredictor(args.config_file, args.weights, device, **settings)


def weights_file(text: str) -> str:
    """A file of weights, or an address."""
    if "://" not in text and not os.path.isfile(text):
        raise argparse.ArgumentTypeError(f"{text}: the file does not exist")
    return text


def add_confidence(parser: argparse.ArgumentParser) -> None:
    help_text = "leave out parts with a lower score (0 to 1); default: the rule of the configuration"
    parser.add_argument("--confidence", type=share, metavar="SHARE", help=help_text)


def share(text: str) -> float:
    """A number from 0 to 1."""
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text}")
    return number


def add_processes(parser: argparse.ArgumentParser) -> None:
    """How many processes of this machine share the work."""
    add = parser.add_argument
    add("--num-gpus", type=int, default=1, help="GPUs of this machine, with a process each (default: 1)")
    add("--num-processes", type=int, default=0, help="processes of this machine on the CPU; needs MODEL.DEVICE cpu")
    parser.set_defaults(num_machines=1, machine_rank=0, dist_url="auto")


def add_shard(parser: argparse.ArgumentParser) -> None:
    """A share of the work, for jobs that know nothing of each other."""
    help_text = "do the share I, from 0, of N alone; when all are done, the command without it finishes"
    parser.add_argument("--shard", dest="share", type=_shard, default=WHOLE, metavar="I/N", help=help_text)
    help_text = (
        "copy finished files to this storage of fsspec's, such as s3://bucket/folder, and go on from those there"
    )
    parser.add_argument("--mirror", metavar="URL", help=help_text)


def _shard(text: str) -> Share:
    try:
        return Share.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_run(parser: argparse.ArgumentParser) -> None:
    """What training and evaluation have in common: Detectron2's arguments, and ``--num-processes``."""
    add_config(parser)
    add_processes(parser)
    add = parser.add_argument
    add("--resume", action="store_true", help="continue, or evaluate, the last checkpoint of OUTPUT_DIR")
    add("--num-machines", type=int, default=1, help="machines of the run (default: 1)")
    add("--machine-rank", type=int, default=0, help="which of them this is, from 0")
    # The same for every run of one user, so that the machines of one run agree without being told.
    port = 2**15 + 2**14 + hash(os.getuid() if hasattr(os, "getuid") else 1) % 2**14
    add("--dist-url", default=f"tcp://127.0.0.1:{port}", help="where the processes meet (default: %(default)s)")


def add_descriptions(parser: argparse.ArgumentParser) -> None:
    """Data sets of one's own."""
    help_text = "description of a data set to register; may be repeated"
    parser.add_argument("--description", action="append", default=[], metavar="YAML", help=help_text)


def add_threads(parser: argparse.ArgumentParser) -> None:
    """For measurements, and machines that are shared."""
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of PyTorch; 0: its own choice")


def add_settings(parser: argparse.ArgumentParser, kind: str) -> None:
    """Of the trainings of frozen networks, whose settings are the fields of the class ``kind``."""
    add = parser.add_argument
    add("--config-file", metavar="YAML", help=f"settings; see {kind} for all of them")
    add("--output-dir", required=True)
    add("--resume", action="store_true", help="continue from OUTPUT_DIR/checkpoint.pt")
    add_threads(parser)
    add("settings", nargs="*", metavar="NAME=VALUE", help="settings that replace those of the file, as YAML")
