"""``python -m wps_sam``: the same as ``wps-sam``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
