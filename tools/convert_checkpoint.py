#!/usr/bin/env python
"""The same as ``wps-sam convert``; see wps_sam/cli/convert.py."""

import sys
from functools import partial

from wps_sam.cli import run_command

main = partial(run_command, "convert")

if __name__ == "__main__":
    sys.exit(main())
