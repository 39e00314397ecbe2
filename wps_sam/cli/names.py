"""Makes the file of text embeddings, MODEL.TEXT.EMBEDDINGS, of all part names of DATASETS.TRAIN and DATASETS.TEST.

Of "dog's ear" also those of "dog" and "ear", which MODEL.PROMPTER.CLASSIFIER composed_text asks for.

    wps-sam names --config-file FILE --output clip_names.safetensors
    wps-sam names --config-file FILE --names "heron's crest" "heron's bill"
    wps-sam names --config-file FILE --output F MODEL.TEXT.TEMPLATES "['a photo of a {}.', 'a {}']"

MODEL.TEXT.ENCODER and MODEL.TEXT.TEMPLATES say how. The encoder is needed here only: whoever reads the file needs none.
The same command writes the same bytes.
"""

from __future__ import annotations

import argparse

from . import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_config(parser)
    parser.add_argument(
        "--names", nargs="+", default=[], metavar="NAME", help="embed these too; overrides go before --names"
    )
    parser.add_argument("--output", metavar="FILE", help="a .safetensors; default: MODEL.TEXT.EMBEDDINGS")


def run(args: argparse.Namespace) -> int:
    from detectron2.data import MetadataCatalog

    from ..config import read_config
    from ..data import register_descriptions
    from ..engine import check_classes
    from ..text_embeddings import embed_names
    from ..vocabulary import words_of

    cfg = read_config(args.config_file, args.opts)
    # Overrides that stand after --names would be taken for names.
    swallowed = [name for name in args.names if "." in name and name.split(".")[0] in cfg]
    if swallowed:
        raise ValueError(f"--names holds the config key {swallowed[0]!r}; put overrides before --names")
    output = args.output or cfg.MODEL.TEXT.EMBEDDINGS
    if not output:
        raise ValueError("MODEL.TEXT.EMBEDDINGS is empty; expected the file to write, there or as --output")
    register_descriptions(cfg.DATASETS.DESCRIPTIONS)
    datasets = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    check_classes(cfg, datasets)
    names = list(dict.fromkeys(name for d in datasets for name in MetadataCatalog.get(d).thing_classes))
    names += [name for name in args.names if name not in names]
    names += [word for word in words_of(names) if word not in names]
    embeddings = embed_names(names, cfg.MODEL.TEXT.ENCODER, cfg.MODEL.TEXT.TEMPLATES)
    embeddings.write(output)
    print(
        f"{output}: {len(names)} names, {embeddings.dim} numbers each, by {cfg.MODEL.TEXT.ENCODER} "
        f"from {cfg.MODEL.TEXT.TEMPLATES}; use it with MODEL.TEXT.EMBEDDINGS {output}"
    )
    return 0
