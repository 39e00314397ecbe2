#!/usr/bin/env python
"""The same as ``wps-sam import``; see wps_sam/cli/import_labels.py."""

import sys
from functools import partial

from wps_sam.cli import run_command

main = partial(run_command, "import")

if __name__ == "__main__":
    sys.exit(main())
