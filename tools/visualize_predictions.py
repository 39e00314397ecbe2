#!/usr/bin/env python
"""The same as ``wps-sam compare``; see wps_sam/cli/compare.py."""

import sys
from functools import partial

from wps_sam.cli import run_command

main = partial(run_command, "compare")

if __name__ == "__main__":
    sys.exit(main())
