#!/usr/bin/env python
"""The same as ``wps-sam check``; see wps_sam/cli/check.py."""

import sys
from functools import partial

from wps_sam.cli import run_command

main = partial(run_command, "check")

if __name__ == "__main__":
    sys.exit(main())
