"""``python -m wps_sam.image_level``: the same as ``wps-sam image-level``; see wps_sam/cli/image_level.py."""

import sys
from functools import partial

from ..cli import run_command

main = partial(run_command, "image-level")

if __name__ == "__main__":
    sys.exit(main())
