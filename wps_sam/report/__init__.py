"""What a run was and what came of it, on one HTML page: tools/report.py."""

from .page import page
from .run_folder import RunFolder

__all__ = ["RunFolder", "page"]
