#!/usr/bin/env python
"""The same as ``wps-sam report``; see wps_sam/cli/report.py."""

import sys
from functools import partial

from wps_sam.cli import run_command

main = partial(run_command, "report")

if __name__ == "__main__":
    sys.exit(main())
