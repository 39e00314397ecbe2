#!/usr/bin/env python
"""The same as ``wps-sam names``; see wps_sam/cli/names.py."""

import sys
from functools import partial

from wps_sam.cli import run_command

main = partial(run_command, "names")

if __name__ == "__main__":
    sys.exit(main())
