#!/usr/bin/env python
"""The same as ``wps-sam distill``; see wps_sam/cli/distill.py."""

import sys
from functools import partial

from wps_sam.cli import run_command

main = partial(run_command, "distill")

if __name__ == "__main__":
    sys.exit(main())
