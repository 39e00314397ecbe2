"""Measures one subject against its stock counterpart, in turn and in one run; prints a Markdown table.

    wps-sam benchmark encoder --model vit_b --batch 1 --json encoder.json
    wps-sam benchmark training_step --model vit_b --batch 2 --repeats 2
    wps-sam benchmark encoder --model vit_h --batch 8 --device cuda --peak-tflops fp32=67 --peak-tflops bf16=989

Weights are random and pictures are generated: nothing has to be downloaded. Times are medians with their quartiles;
memory is how far one run goes above what was there before it, in a process of its own. Let nothing else run meanwhile.
"""

from __future__ import annotations

import argparse

from . import arguments

# Those of wps_sam.benchmark, which takes seconds to import.
SUBJECTS = ("cache", "encoder", "evaluation", "inference", "loading", "training_step")
VARIANTS = ("bf16", "bf16+compile", "fp32", "fp32+compile")


def _peak(text: str) -> tuple[str, float]:
    precision, _, value = text.partition("=")
    if precision not in ("fp32", "bf16"):
        raise argparse.ArgumentTypeError(f"expected fp32=NUMBER or bf16=NUMBER, got {text!r}")
    return precision, float(value)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("subject", choices=SUBJECTS)
    add("--model", default="vit_b", help="MODEL.SAM.ARCH (default: %(default)s)")
    add("--batch", type=int, default=2, help="images at once (default: %(default)s)")
    add("--device", default="cpu", help="cpu, cuda or cuda:N (default: %(default)s)")
    add("--repeats", type=int, default=5, help="rounds in which every side is run (default: %(default)s)")
    add("--warmup", type=int, default=1, help="runs of every side before (default: %(default)s)")
    add("--variant", action="append", default=[], choices=VARIANTS, help="of our encoder; may be repeated")
    arguments.add_threads(parser)
    add("--folder", help="where pictures and caches are written, and stay (default: a temporary folder)")
    add("--no-memory", action="store_true", help="leave out the memory, for which every side is run once more")
    add("--peak-tflops", action="append", type=_peak, default=[], metavar="fp32|bf16=NUMBER", help="of the device")
    add("--json", metavar="FILE", help="write the pairs there")


def run(args: argparse.Namespace) -> int:
    import logging
    import tempfile

    import torch

    from ..benchmark import Settings, describe_machine, describe_schedule, markdown, run_benchmark, write_json

    # Evaluators tell their results to a log, which is not what is measured.
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("wps_sam.benchmark").setLevel(logging.INFO)
    if args.threads:
        torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as temporary:
        settings = Settings(
            subject=args.subject,
            folder=args.folder or temporary,
            model=args.model,
            batch=args.batch,
            device=args.device,
            repeats=args.repeats,
            warmup=args.warmup,
            threads=args.threads,
            variants=tuple(args.variant),
        )
        pairs = run_benchmark(settings, memory=not args.no_memory, peak_tflops=dict(args.peak_tflops))
    if args.json:
        write_json(args.json, pairs)
    print(describe_machine(pairs[0]["machine"]))
    print(markdown(pairs))
    for pair in pairs:
        if "schedule" in pair:
            print(describe_schedule(pair["schedule"]))
    return 0
