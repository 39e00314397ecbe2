#!/usr/bin/env python
"""The same as ``wps-sam view``; see wps_sam/cli/view.py."""

import sys
from functools import partial

from wps_sam.cli import run_command

main = partial(run_command, "view")

if __name__ == "__main__":
    sys.exit(main())
