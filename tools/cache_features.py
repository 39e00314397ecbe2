#!/usr/bin/env python
"""The same as ``wps-sam cache``; see wps_sam/cli/cache.py."""

import sys
from functools import partial

from wps_sam.cli import run_command

main = partial(run_command, "cache")

if __name__ == "__main__":
    sys.exit(main())
