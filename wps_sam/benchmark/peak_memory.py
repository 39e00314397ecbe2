"""The process in which the peak memory of one side is measured: ``python -m wps_sam.benchmark.peak_memory REQUEST``."""

from __future__ import annotations

import json
import sys

from wps_sam.benchmark.measuring import measure_memory
from wps_sam.benchmark.subjects import SUBJECTS, Settings

import torch


def main(request_text: str) -> None:
    """Prints [growth, total] in MiB, or null, as the last line."""
    request = json.loads(request_text)
    settings = Settings(**request["settings"])
    if settings.threads:
        torch.set_num_threads(settings.threads)
    contest = SUBJECTS[settings.subject](settings)[request["contest"]]
    print(json.dumps(measure_memory(contest.side(request["side"]).build(), settings.torch_device)))


if __name__ == "__main__":
    main(sys.argv[1])
