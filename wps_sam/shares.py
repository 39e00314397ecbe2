"""One of several equal shares of a work, each of which may be done on a machine of its own, at any time."""

from __future__ import annotations

import re
from typing import NamedTuple


class Share(NamedTuple):
    """The share ``number``, from 0, ``of`` so many: everything whose number leaves that remainder."""

    number: int = 0
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Share:
        """Of "0/4", the first of four.

        Raises:
            ValueError: it is something else.
        """
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
        share = cls(int(found[1]), int(found[2])) if found else cls(1)
        if share.number >= share.of:
            raise ValueError(f"expected I/N, such as 0/4 to 3/4, got {text}")
        return share

    @property
    def is_whole(self) -> bool:
        return self.of == 1

    def has(self, number: int) -> bool:
        """Whether what has this number, from 0, belongs to it."""
        return number % self.of == self.number

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


WHOLE = Share()
