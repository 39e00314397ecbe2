"""Fields of other people's json: read in every form that common tools write, refused with file and field otherwise.

``where`` names the file and the entry in every message.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wps_sam.picture_files import max_pixels

import yaml

# Ids are kept in 64 bits by numpy and by COCO's own tools.
_MAX_INTEGER = 2**63 - 1
# No picture is so wide, and sums of such numbers stay finite.
_MAX_PIXELS = 1e9
_DIGITS = re.compile(r"\s*([+-]?\d{1,19})(\.0*)?\s*", re.ASCII)
_SHORT = reprlib.Repr()
_SHORT.maxlevel = 3
_SHORT.maxdict = _SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxset = 20
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100
_FLAGS = {"0": False, "false": False, "": False, "1": True, "true": True}


def read_json(path: str | Path, what: str) -> Any:
    """The content of a json in UTF-8, -16 or -32, with a byte-order mark or without.

    Raises:
        ValueError: begins with ``what`` and the file, which is missing, cut off, or no json; also where a text in it
            has a half of a character, which no file could be named by.
    """
    content = _read_bytes(path, what)
    try:
        written = content.decode(json.detect_encoding(content))
        found = json.loads(written)
        if "\\ud" in written or "\\uD" in written:
            _check_characters(found)
        return found
    except (ValueError, RecursionError) as error:
        # ValueError is also what the decoder raises on bytes that are no text, and on numbers of 4,301 digits.
        raise ValueError(f"{what} {path}: no valid json, perhaps cut off: {error}") from error


def read_yaml(path: str | Path, what: str) -> Any:
    """The content of a YAML in UTF-8, of plain values: objects of Python are refused.

    Raises:
        ValueError: begins with ``what`` and the file, which is missing or no such YAML.
    """
    return parse_yaml(read_text(path, what), f"{what} {path}")


def parse_yaml(text: str, where: str) -> Any:
    """:func:`read_yaml` of what has been read already."""
    try:
        found = yaml.safe_load(text)
        if "\\u" in text or "\\U" in text:
            _check_characters(found)
        return found
    # Dates that are none, and the like, the parser does not turn into its own error.
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(f"{where}: no valid YAML: {error}") from error


def _check_characters(value: Any) -> None:
    """UnicodeEncodeError, a ValueError, where a text has half of a character, a surrogate alone: escapes can write what
    neither a file nor a log can."""
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, Mapping):
        for pair in value.items():
            _check_characters(pair)
    elif isinstance(value, list | tuple):
        for one in value:
            _check_characters(one)


def read_text(path: str | Path, what: str) -> str:
    """A text in UTF-8, with a byte-order mark or without.

    Raises:
        ValueError: begins with ``what`` and the file, which is missing or no such text.
    """
    try:
        return _read_bytes(path, what).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} {path}: expected text in UTF-8: {error}") from error


def _read_bytes(path: str | Path, what: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ValueError(f"{what} {path}: the file does not exist") from error
    except OSError as error:
        raise ValueError(f"{what} {path}: cannot be read: {error}") from error


def text(entry: Any, key: str, where: str) -> str:
    """A text that is not empty."""
    value = entry.get(key) if isinstance(entry, Mapping) else None
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where}.{key}: expected a text, got {shown(value)}")
    return value


def integer(entry: Any, key: str, where: str, minimum: int | None = None) -> int:
    """A whole number, also as ``120.0``, "120" or "120.0"."""
    value = entry.get(key) if isinstance(entry, Mapping) else None
    number = _whole(value)
    if number is None or (minimum is not None and number < minimum) or abs(number) > _MAX_INTEGER:
        expected = "an integer" if minimum is None else f"an integer of at least {minimum}"
        raise ValueError(f"{where}.{key}: expected {expected}, got {shown(value)}")
    return number


def picture_size(entry: Any, where: str, height_key: str = "height", width_key: str = "width") -> tuple[int, int]:
    """(height, width) in pixels of a picture that can be opened: a larger mask would fill the memory."""
    height, width = (integer(entry, key, where, minimum=1) for key in (height_key, width_key))
    if height * width > max_pixels():
        raise ValueError(
            f"{where}: {height_key} and {width_key}: {height} x {width} are more than {max_pixels()} pixels"
        )
    return height, width


def identity(entry: Any, key: str, where: str) -> int | str:
    """An id: a whole number, or any text that is none; "7" and 7 are the same, "007" is another."""
    value = entry.get(key) if isinstance(entry, Mapping) else None
    if isinstance(value, str) and value.strip():
        number = _whole(value)
        return value if number is None or str(number) != value else number
    if isinstance(value, int) and not isinstance(value, bool):
        return value  # Hashes have more bits than tools expect.
    return integer(entry, key, where)


def _whole(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    match = _DIGITS.fullmatch(value) if isinstance(value, str) else None
    return int(match[1]) if match else None


def flag(entry: Mapping[str, Any], key: str, where: str) -> bool:
    """0 or 1 in any form: a number, true or false, a text; False where it is missing or null."""
    value = entry.get(key)
    if value is None:
        return False
    found = _FLAGS.get(value.strip().lower()) if isinstance(value, str) else None
    if isinstance(value, int | float) and value in (0, 1):
        found = bool(value)
    if found is None:
        raise ValueError(f"{where}.{key}: expected 0 or 1, got {shown(value)}")
    return found


def numbers(entry: Mapping[str, Any], key: str, meaning: tuple[str, ...], where: str) -> list[float] | None:
    """As many numbers, in pixels, as ``meaning`` has words; None where the key is missing or null."""
    value = entry.get(key)
    if value is None:
        return None
    if isinstance(value, list) and len(value) == len(meaning):
        if all(map(is_pixels, value)):
            return [float(v) for v in value]
    raise ValueError(f"{where}.{key}: expected [{', '.join(meaning)}] in pixels, got {shown(value)}")


def is_pixels(value: Any) -> bool:
    """Whether a value is a coordinate or a length that a picture may have."""
    # NaN is not below the limit either.
    return isinstance(value, int | float) and abs(value) < _MAX_PIXELS


def mapping_of(content: Any, where: str, value: Callable[[Any], bool], expected: str) -> dict[str, Any]:
    """A json object whose values are as ``value`` asks.

    Raises:
        ValueError: names the key whose value is not ``expected``.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{where}: expected names with {expected}, got {type(content).__name__}")
    for key, found in content.items():
        if not value(found):
            raise ValueError(f"{where}: {key!r}: expected {expected}, got {shown(found)}")
    return content


def shown(value: Any) -> str:
    """A value in a message, cut short: it may be a whole file, and of a YAML with references more than memory holds."""
    try:
        return f"{_SHORT.repr(value):.80}"
    except ValueError:  # An integer of more digits than Python writes.
        return "a number too large to be written"
