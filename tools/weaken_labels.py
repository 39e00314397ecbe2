#!/usr/bin/env python
"""The same as ``wps-sam weaken``; see wps_sam/cli/weaken.py."""

import sys
from functools import partial

from wps_sam.cli import run_command

main = partial(run_command, "weaken")

if __name__ == "__main__":
    sys.exit(main())
