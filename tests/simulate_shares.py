#!/usr/bin/env python
"""What is not done by a network when very many pictures are shared among jobs, without the network.

    python tests/simulate_shares.py --pictures 100000 --shares 64 --result photo.json

Prints as JSON, for a folder of so many (empty) pictures in subfolders of 1,000: the processor's seconds and the memory
in which a job finds its share of them, how even the shares are, for predict (the last and the first) and for a cache;
and for the last command of predict, the seconds and memory in which it takes the results of so many pictures, each that
of --result, into one file.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from wps_sam.data.feature_store import Manifest
from wps_sam.outputs import is_output
from wps_sam.prediction.results import Results
from wps_sam.prediction.run import sources_of
from wps_sam.prediction.sources import find_sources
from wps_sam.shares import Share

_KINDS = ("json",)


def peak() -> int:
    """MiB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def predicting(folder: Path, pictures: int, shares: int, result: Path) -> dict[str, Any]:
    content, output = result.read_bytes(), folder / "found"
    classes = tuple(dict.fromkeys(part["name"] for part in json.loads(content)["parts"]))
    for number in range(pictures):
        for path, written in ((folder / "photos", b""), (output, content)):
            place = path / f"{number // 1000:04d}"
            if number % 1000 == 0:
                place.mkdir(parents=True)
            place.joinpath(f"{number:07d}{'.json' if written else '.jpg'}").write_bytes(written)
    before, began = peak(), time.process_time()
    found = find_sources([str(folder / "photos")], is_result=is_output).sources
    mine = sources_of(Share(0, shares), found, 4)
    figures = {"seconds_to_find_a_share": round(time.process_time() - began, 2), "mib_to_find": peak() - before}
    figures |= {"pictures_of_a_share": [len(sources_of(Share(shares - 1, shares), found, 4)), len(mine)]}
    before, began = peak(), time.process_time()
    with Results(output, _KINDS, classes) as results:
        done = [source for source in found if Results.are_there(output, _KINDS, source)]
        assert len(done) == pictures
        for source in done:
            results.keep(source)
    return {**figures, "seconds_to_finish": round(time.process_time() - began, 1), "mib_to_finish": peak() - before}


def caching(pictures: int, shares: int) -> dict[str, Any]:
    rows = [["name.jpg", 0, 500, 375, 100000, "0" * 16]] * pictures
    about = {"data_set": "simulated", "settings": {}, "features": {"image_embedding": [256, 64, 64]}, "dtype": "fp16"}
    manifest = Manifest(**about, records_per_shard=32, pictures=rows, mtimes=[0] * pictures)
    began = time.process_time()
    sizes = [sum(s.count for s in manifest.shards_of(["original"], Share(n, shares))) for n in range(shares)]
    assert sum(sizes) == pictures
    return {"records_of_a_share": [min(sizes), max(sizes)], "seconds_to_share": round(time.process_time() - began, 2)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100000)
    parser.add_argument("--shares", type=int, default=64)
    parser.add_argument("--result", type=Path, required=True, help="the JSON of a picture, of wps-sam predict")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        predicted = predicting(Path(folder), args.pictures, args.shares, args.result)
    cached = caching(args.pictures, args.shares)
    about = {"pictures": args.pictures, "shares": args.shares, "bytes_of_a_result": args.result.stat().st_size}
    print(json.dumps({**about, "predict": predicted, "cache": cached}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
