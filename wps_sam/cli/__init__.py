"""The command line ``wps-sam``: a table of subcommands, each of which is a module here.

Such a module has a docstring, which ``--help`` shows, ``add_arguments(parser)``, and ``run(args)``, which returns the
exit code. Its heavy imports stand inside ``run``: arguments are read before PyTorch is loaded, so that help, and
mistakes in them, are told at once.

Exit codes: 0, all went well; 1, the work was done and its result is not as asked for; 2, the user has to mend
something, which is told in one line on the standard error; 130 and 143, stopped by Ctrl-C and by SIGTERM, told alike.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import shlex
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple, NoReturn

from .. import __version__, stops
from ..paths import check_overrides, find_config
from ..user_errors import USER_ERRORS, did_you_mean, one_line


class Command(NamedTuple):
    """The module of a subcommand, and what it does in one line."""

    module: str
    summary: str


COMMANDS = {
    "train": Command("train", "train and evaluate the model of a configuration"),
    "eval": Command("evaluate", "evaluate a trained model"),
    "predict": Command("predict", "find the parts in pictures"),
    "app": Command("app", "show a page to look at a photo's parts and correct them"),
    "label-studio": Command("label_studio", "find parts for Label Studio, to be corrected there"),
    "export": Command("export", "write a model as one file for other runtimes"),
    "compare": Command("compare", "draw pictures, truth and predictions of a test set side by side"),
    "report": Command("report", "put a run on one HTML page"),
    "import": Command("import_labels", "make a data set out of the labels of another tool"),
    "check": Command("check", "look through data sets: one page of what they hold and what looks odd"),
    "view": Command("view", "draw what a training sees of its data set"),
    "cache": Command("cache", "keep what the frozen encoder says of a data set"),
    "synthetic": Command("synthetic", "write the generated data set"),
    "weaken": Command("weaken", "make a data set with weaker labels out of another"),
    "names": Command("names", "make text embeddings of part names"),
    "download": Command("download", "download weights of others, such as SAM's"),
    "convert": Command("convert", "convert checkpoints"),
    "prompts": Command("prompts", "measure a SAM that is told where each part is"),
    "image-level": Command("image_level", "make labels out of tags alone"),
    "pretrain": Command("pretrain", "train a promptable SAM"),
    "distill": Command("distill", "teach a small semantic network what a larger one sees"),
    "benchmark": Command("benchmark", "measure time and memory against the stock counterparts"),
}


class _Parser(argparse.ArgumentParser):
    """Tells a mistake in one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {' '.join(message.split())}; {self.prog} --help explains\n")


def main(argv: Sequence[str] | None = None) -> int:
    """``wps-sam SUBCOMMAND ...``; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments and arguments[0] in COMMANDS:
        return run_command(arguments[0], arguments[1:])
    listed = "\n".join(f"  {name:<12} {command.summary}" for name, command in COMMANDS.items())
    parser = _Parser(
        prog="wps-sam",
        description="Part segmentation from boxes, points, masks or tags, on top of a frozen SAM.",
        epilog=f"subcommands:\n{listed}\n\nwps-sam SUBCOMMAND --help explains each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"wps_sam {__version__}")
    parser.add_argument("subcommand", metavar="SUBCOMMAND")
    name = parser.parse_known_args(arguments)[0].subcommand
    parser.error(f"no subcommand {name!r}{did_you_mean(name, COMMANDS)}")


def parse(name: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of a subcommand, options and others in any order; ends the program with code 2 on mistakes."""
    module = _module(name)
    parser = _Parser(
        prog=f"wps-sam {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the stack trace of an error")
    arguments = sys.argv[1:] if argv is None else list(argv)
    args, unknown = parser.parse_known_intermixed_args(arguments)
    if unknown:
        known = (option for action in parser._actions for option in action.option_strings)
        parser.error(f"unknown argument {unknown[0]}{did_you_mean(unknown[0].partition('=')[0], known)}")
    args.command = shlex.join(["wps-sam", name, *arguments])
    return args


def run_command(name: str, argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand with these arguments, or those of the process; returns the exit code."""
    args = parse(name, argv)
    # The log of a run says which Detectron2 it has.
    logging.getLogger("wps_sam._detectron2").setLevel(logging.ERROR)
    # Where a log can't be written, on a full disk, each line of it would be a stack trace.
    logging.raiseExceptions = args.debug
    try:
        # What is most often mistyped is told before anything is imported that takes seconds.
        if getattr(args, "config_file", None):
            find_config(args.config_file)
        check_overrides(getattr(args, "opts", None) or ())
        with stops.handled(stops.raise_stopped):
            return _module(name).run(args)
    except KeyboardInterrupt as stop:
        if args.debug:
            raise
        print(stops.one_line(stop), file=sys.stderr)
        return stops.exit_code(stop)
    except USER_ERRORS as error:
        if args.debug:
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2


def _module(name: str) -> ModuleType:
    return importlib.import_module(f".{COMMANDS[name].module}", __name__)
