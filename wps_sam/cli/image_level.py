"""From names of what is in pictures to masks, boxes and points on which wps-sam train trains.

    wps-sam image-level tags  --config-file configs/image_level/ccp_parts.yaml --run output/from_tags
    wps-sam image-level masks --config-file ... --run output/from_tags
    wps-sam image-level fit   --config-file ... --run output/from_tags --words tags
    wps-sam image-level cams  --config-file ... --run output/from_tags --words tags
    wps-sam image-level seeds --config-file ... --run output/from_tags --seeds coarse
    wps-sam image-level export --config-file ... --run output/from_tags --seeds coarse
    wps-sam image-level show  --config-file ... --run output/from_tags --picture 0001

With CLIP, fit, cams and seeds once more, with --words seeds and --seeds fine, are FMA-WSSS's second step. With WeakTr,
fit --words match, background and refine are SemPLeS's three, cams --words refine its maps, --seeds fine its seeds. eval
scores maps or seeds where the truth is known. Every stage goes on where it was stopped.
"""

from __future__ import annotations

import argparse

STAGES = ("tags", "masks", "fit", "cams", "seeds", "export", "eval", "show")
# Those of wps_sam.image_level, which takes seconds to import.
WORDS = ("tags", "seeds", "background", "match", "refine")
KINDS = ("coarse", "fine")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("stage", choices=STAGES)
    add("--config-file", required=True, metavar="YAML", help="settings; see ImageLevelSettings for all")
    add("--run", required=True, metavar="DIR", help="the folder of the run")
    add("--words", choices=WORDS, default="tags", help="what words are learned from")
    add("--words-from", default="", metavar="DIR", help="another run whose learned words are used")
    add("--seeds", choices=KINDS, default="coarse")
    add("--what", choices=(*WORDS, *KINDS), default="coarse", help="of eval: maps by their words, or seeds")
    add("--tune-with-truth", action="store_true", help="of eval and SemPLeS's fit: the best by the very truth")
    add("--crf", action="store_true", help="of eval of maps: also what a CRF makes of their labels, as WeakTr's curve")
    add("--picture", default="", metavar="NAME", help="of show")
    add("--subset", type=int, default=0, metavar="N", help="only the first N pictures")
    add("settings", nargs="*", metavar="NAME=VALUE", help="settings that replace those of the file, as YAML")


def run(args: argparse.Namespace) -> int:
    import json
    import logging

    from ..image_level.results import evaluate, export, show
    from ..image_level.run import Run
    from ..image_level.settings import ImageLevelSettings, read_values
    from ..pretraining.command_line import read_values as read_file

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    settings = read_values(ImageLevelSettings, read_file(args.config_file, args.settings))
    made = Run(args.run, settings, args.words_from, args.subset)
    if args.stage in ("tags", "masks"):
        getattr(made, args.stage)()
    elif args.stage == "fit":
        made.fit(args.words, args.tune_with_truth)
    elif args.stage == "cams":
        made.cams(args.words)
    elif args.stage == "seeds":
        made.seeds(args.seeds)
    elif args.stage == "export":
        print(f"{made.folder / 'description.yaml'}: {export(made, args.seeds)} labels")
    elif args.stage == "eval":
        print(
            json.dumps(evaluate(made, args.what, args.tune_with_truth, args.crf)["rows"], indent=1, ensure_ascii=False)
        )
    else:
        show(made, args.picture)
        print(made.folder / "show" / f"{args.picture}.png")
    return 0
