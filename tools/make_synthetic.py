#!/usr/bin/env python
"""The same as ``wps-sam synthetic``; see wps_sam/cli/synthetic.py."""

import sys
from functools import partial

from wps_sam.cli import run_command

main = partial(run_command, "synthetic")

if __name__ == "__main__":
    sys.exit(main())
