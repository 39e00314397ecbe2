"""Errors that people can mend themselves: which exceptions they are, and how they are put into one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# Bad input is a ValueError with us; the others come of files, of packages that are not installed, and of a loss that
# became NaN. Whatever else is raised is a mistake of the program's, and its stack trace is wanted.
USER_ERRORS = (ValueError, OSError, ImportError, FloatingPointError)


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``" (did you mean X?)"`` with the known name that is nearest to a misspelt one; nothing where none is near."""
    folded = {candidate.casefold(): candidate for candidate in known}
    near = difflib.get_close_matches(name.casefold(), folded, n=1)
    return f" (did you mean {folded[near[0]]}?)" if near else ""
