"""Downloads weights of others from where their owners keep them, and checks that they are whole.

    wps-sam download                                   lists what there is, and which keys take it
    wps-sam download sam_vit_b
    wps-sam download dinov2_base --output /data/weights
    wps-sam download sam_vit_b --url https://mirror.example/sam_vit_b_01ec64.pth

A download that broke off goes on with the same command. What is there and right is kept. Behind a proxy, set
https_proxy in the environment.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help="what to download; without it, a list is printed")
    add("--output", type=Path, default=Path("weights"), metavar="DIR", help="(default: weights)")
    add("--url", help="a mirror: the address of the file, or with / at its end of the folder that holds the files")


def run(args: argparse.Namespace) -> int:
    from ..download import download, read_table

    if args.name is None:
        if args.url is not None:
            raise ValueError("--url needs the NAME of what is to be downloaded from there")
        print("\n\n".join(weights.describe(args.output) for weights in read_table().values()))
        return 0
    place = download(args.name, args.output, args.url)
    keys = read_table()[args.name].keys
    print(f"{place}: use it with {keys.format(path=place)}" if keys else f"{place}: this version has no key for it")
    return 0
