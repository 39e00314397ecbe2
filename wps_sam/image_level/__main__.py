"""From names of what is in pictures to masks, boxes and points on which tools/train_net.py trains.

    python -m wps_sam.image_level tags  --config-file configs/image_level/ccp_parts.yaml --run output/from_tags
    python -m wps_sam.image_level masks --config-file ... --run output/from_tags
    python -m wps_sam.image_level fit   --config-file ... --run output/from_tags --words tags
    python -m wps_sam.image_level cams  --config-file ... --run output/from_tags --words tags
    python -m wps_sam.image_level seeds --config-file ... --run output/from_tags --seeds coarse
    python -m wps_sam.image_level export --config-file ... --run output/from_tags --seeds coarse
    python -m wps_sam.image_level show  --config-file ... --run output/from_tags --picture 0001

With CLIP, fit, cams and seeds once more, with --words seeds and --seeds fine, are FMA-WSSS's second step. With WeakTr,
fit --words match, background and refine are SemPLeS's three, cams --words refine its maps, --seeds fine its seeds. eval
scores maps or seeds where the truth is known. Every stage goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from ..pretraining.command_line import read_values as read_file
from .results import evaluate, export, show
from .run import KINDS, Run
from .settings import ImageLevelSettings, read_values
from .words import TASKS

WORDS = tuple(dict.fromkeys(task for tasks in TASKS.values() for task in tasks))
STAGES = ("tags", "masks", "fit", "cams", "seeds", "export", "eval", "show")


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of the command line; see the module."""
    parser = argparse.ArgumentParser(
        prog="python -m wps_sam.image_level",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("stage", choices=STAGES)
    add("--config-file", type=Path, required=True, metavar="YAML", help="settings; see ImageLevelSettings for all")
    add("--run", required=True, metavar="DIR", help="the folder of the run")
    add("--words", choices=WORDS, default="tags", help="what words are learned from")
    add("--words-from", default="", metavar="DIR", help="another run whose learned words are used")
    add("--seeds", choices=KINDS, default="coarse")
    add("--what", choices=(*WORDS, *KINDS), default="coarse", help="of eval: maps by their words, or seeds")
    add("--tune-with-truth", action="store_true", help="of eval: the best power on this very truth, as papers do")
    add("--picture", default="", metavar="NAME", help="of show")
    add("--subset", type=int, default=0, metavar="N", help="only the first N pictures")
    add("settings", nargs="*", metavar="NAME=VALUE", help="settings that replace those of the file, as YAML")
    # Settings may stand among and after the options.
    args = parser.parse_intermixed_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        settings = read_values(ImageLevelSettings, read_file(args.config_file, args.settings))
        _do(Run(args.run, settings, args.words_from, args.subset), args)
    except (ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _do(run: Run, args: argparse.Namespace) -> None:
    if args.stage in ("tags", "masks"):
        getattr(run, args.stage)()
    elif args.stage in ("fit", "cams"):
        getattr(run, args.stage)(args.words)
    elif args.stage == "seeds":
        run.seeds(args.seeds)
    elif args.stage == "export":
        print(f"{run.folder / 'description.yaml'}: {export(run, args.seeds)} labels")
    elif args.stage == "eval":
        print(json.dumps(evaluate(run, args.what, args.tune_with_truth)["rows"], indent=1, ensure_ascii=False))
    else:
        show(run, args.picture)
        print(run.folder / "show" / f"{args.picture}.png")


if __name__ == "__main__":
    sys.exit(main())
