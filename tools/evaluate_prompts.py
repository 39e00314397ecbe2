#!/usr/bin/env python
"""The same as ``wps-sam prompts``; see wps_sam/cli/prompts.py."""

import sys
from functools import partial

from wps_sam.cli import run_command

main = partial(run_command, "prompts")

if __name__ == "__main__":
    sys.exit(main())
