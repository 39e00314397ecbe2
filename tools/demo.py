#!/usr/bin/env python
"""The same as ``wps-sam predict``; see wps_sam/cli/predict.py."""

import sys
from functools import partial

from wps_sam.cli import run_command

main = partial(run_command, "predict")

if __name__ == "__main__":
    sys.exit(main())
