#!/usr/bin/env python
"""The same as ``wps-sam benchmark``; see wps_sam/cli/benchmark.py."""

import sys
from functools import partial

from wps_sam.cli import run_command

main = partial(run_command, "benchmark")

if __name__ == "__main__":
    sys.exit(main())
