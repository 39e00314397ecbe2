#!/usr/bin/env python
"""The same as ``wps-sam pretrain``; see wps_sam/cli/pretrain.py."""

import sys
from functools import partial

from wps_sam.cli import run_command

main = partial(run_command, "pretrain")

if __name__ == "__main__":
    sys.exit(main())
