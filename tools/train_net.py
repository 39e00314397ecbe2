#!/usr/bin/env python
"""The same as ``wps-sam train``; see wps_sam/cli/train.py."""

import sys
from functools import partial

from wps_sam.cli import run_command

main = partial(run_command, "train")

if __name__ == "__main__":
    sys.exit(main())
