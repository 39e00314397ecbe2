"""Feeds damaged files to the readers of other people's files, and says which of them break.

    python tests/fuzz/campaign.py --inputs 100000
    python tests/fuzz/campaign.py --inputs 100000 --readers coco mat --seed 7

Every reader runs in a process of its own, whose end by a signal is noticed: 11 of a wrong address, 14 of more than
10 seconds for one input. A reader may refuse an input with a ValueError that names the file; all else is a fault. The
input of a fault is kept in tests/fuzz/found/READER, and read again by every campaign and by the tests.

The inputs are made by hypothesis (the extra dev): the same for the same seed and version of it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
FOUND = HERE / "found"
# hypothesis keeps what it has tried of a run in memory.
_SLICE = 1000
_SECONDS, _MEMORY_BYTES = 10, 2 << 30


@dataclass
class Outcome:
    """What became of the inputs of a reader: counts of "read" and "refused", and a line a fault."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    cpu_seconds: float = 0.0


def run(
    readers: Sequence[str],
    num_inputs: int,
    seed: int,
    folder: Path,
    keep: Path = FOUND,
    module: str = "fuzz_readers",
) -> dict[str, Outcome]:
    """Runs the campaign: first what earlier ones kept, then ``num_inputs`` new inputs a reader.

    Args:
        readers: names, see fuzz_readers.READERS.
        num_inputs: of each reader.
        seed: of the inputs.
        folder: for the readers' files; one that is there goes on in it.
        keep: where inputs of faults are written.
        module: whose READERS they are.
    """
    outcomes = {reader: Outcome() for reader in readers}
    left = [(reader, 0) for reader in readers]
    while left:
        tasks = [f"{reader}:{begin}" for reader, begin in left]
        command = [sys.executable, __file__, "--child", str(folder), "--inputs", str(num_inputs), "--seed", str(seed)]
        command += ["--module", module, "--readers", *tasks]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for line in child.stdout:
            said = json.loads(line)
            outcome = outcomes[said["reader"]]
            outcome.counts.update(said["counts"])
            outcome.cpu_seconds += said["cpu_seconds"]
            if said["fault"]:
                outcome.faults.append(f"{said['fault']} ({_keep(keep, said['reader'], Path(said['input']))})")
            left = [(name, begin) for name, begin in left if name != said["reader"]]
            if said["next"] < num_inputs:
                left.insert(0, (said["reader"], said["next"]))
        if child.wait() == 0:
            break
        # The reader at work has ended its process; the input is still there.
        reader, begin = left.pop(0)
        ended = signal.Signals(-child.returncode).name if child.returncode < 0 else f"exit code {child.returncode}"
        if not (folder / reader).is_file():
            raise RuntimeError(f"{reader}: its process ended before the first input: {ended}")
        kept = _keep(keep, reader, Path((folder / reader).read_text()))
        outcomes[reader].faults.append(f"inputs from {begin}: ended its process by {ended} ({kept})")
        if begin + _SLICE < num_inputs:
            left.insert(0, (reader, begin + _SLICE))
    return outcomes


def _keep(keep: Path, reader: str, file: Path) -> str:
    content = file.read_bytes()
    kept = keep / reader / hashlib.sha256(content).hexdigest()[:12]
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(content)
    return kept.name


def _work(tasks: Iterable[str], num_inputs: int, seed: int, folder: Path, module: str) -> None:
    """The child: says a line of JSON after every slice."""
    logging.disable(logging.CRITICAL)
    readers = importlib.import_module(module).READERS
    # Python's own handler would wait for the end of what is written in C.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (held + _MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    for task in tasks:
        name, _, first = task.partition(":")
        # A reader whose process has ended begins anew.
        reader = readers[name](Path(tempfile.mkdtemp(dir=folder)))
        (folder / name).write_text(str(reader.file))
        for begin in range(int(first), max(num_inputs, 1), _SLICE):
            print(json.dumps(_slice(name, reader, begin, min(_SLICE, num_inputs - begin), seed)), flush=True)


def _slice(name: str, reader: Any, begin: int, size: int, seed: int) -> dict[str, Any]:
    import hypothesis

    counts: Counter[str] = Counter()
    before = os.times()

    def check(content: bytes) -> None:
        reader.file.write_bytes(content)
        signal.setitimer(signal.ITIMER_REAL, _SECONDS)
        try:
            reader.read()
            counts["read"] += 1
        except ValueError as error:
            if not any(told in str(error) for told in reader.told):
                raise AssertionError(f"a ValueError that does not name {reader.told[0]}: {error}") from error
            counts["refused"] += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    fault = ""
    try:
        if begin == 0:
            for honest in reader.inputs.honest:
                check(honest)
            if counts["refused"]:
                raise AssertionError("an honest input is refused")
            for kept in sorted((FOUND / name).glob("*")):
                check(kept.read_bytes())
        if size:
            settings = hypothesis.settings(
                max_examples=size,
                database=None,
                deadline=None,
                report_multiple_bugs=False,
                phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
                suppress_health_check=list(hypothesis.HealthCheck),
            )
            hypothesis.seed(seed * 1_000_003 + begin)(settings(hypothesis.given(reader.inputs.damaged)(check)))()
    except BaseException as error:
        fault = f"inputs from {begin}: {type(error).__name__}: {error!s:.200}"
    times = os.times()
    return {
        "reader": name,
        "next": begin + _SLICE,
        "counts": counts,
        "cpu_seconds": times.user + times.system - before.user - before.system,
        "fault": fault,
        "input": str(reader.file),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="of each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--readers", nargs="+", default=[])
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--module", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        _work(args.readers, args.inputs, args.seed, args.child, args.module)
        return 0
    from fuzz_readers import READERS

    with tempfile.TemporaryDirectory() as folder:
        logging.disable(logging.CRITICAL)
        outcomes = run(args.readers or list(READERS), args.inputs, args.seed, Path(folder))
    for reader, outcome in outcomes.items():
        counts = outcome.counts
        print(f"{reader}: {counts['read']} read, {counts['refused']} refused, {len(outcome.faults)} faults,", end=" ")
        print(f"{outcome.cpu_seconds:.0f} s", *outcome.faults, sep="\n    " if outcome.faults else " ")
    return int(any(outcome.faults for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parent), str(HERE.parent / "data"), str(HERE.parents[1])]
    sys.exit(main())
