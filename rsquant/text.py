"""Text from files and names, made safe to show: one line, nothing that a terminal obeys, no flood.

A file may be called anything but "/" and NUL. Shown as it is, a newline in a name forges a line of
the log, an escape code moves the cursor or changes the colour, a bidirectional override turns the
rest of the line around, and a name of a megabyte hides everything before it.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

# Of a line. Messages name a path or two (4,096 bytes each at most) and say what to do.
LONGEST = 2000
# Control and format characters (bidirectional overrides, zero widths, byte-order marks), line and
# paragraph separators, bytes of a name that are no text, what no version of Unicode has.
_ESCAPED = {"Cc", "Cf", "Zl", "Zp", "Cs", "Cn"}


def one_line(value: object, longest: int = LONGEST) -> str:
    """The text with every character that does not print as itself escaped, cut in its middle.

    Args:
        value: anything; its `str` is shown.
        longest: characters of the result, 60 or more; longer text keeps its beginning and its end,
            and says how many characters there were.
    Returns:
        Text without line breaks and escape codes that `str.encode` takes as UTF-8. Text that has
        nothing to escape and fits is itself, so doing it twice changes nothing.
    """
    text = str(value)
    shown = cut(text, longest)
    if not shown.isprintable():
        shown = cut("".join(map(_printed, shown)), longest)
    return shown


def cut(text: str, longest: int = LONGEST) -> str:
    """Text of at most `longest` characters: the middle of longer text is replaced by a count."""
    if len(text) <= longest:
        return text
    note = f" ... ({len(text):,} characters) ... "
    head = (longest - len(note) + 1) // 2
    tail = longest - len(note) - head
    return f"{text[:head]}{note}{text[len(text) - tail :]}"


def brief(value: object) -> str:
    """A value for a message: its repr, of at most 80 characters, whatever it is."""
    if isinstance(value, int) and value.bit_length() > 200:  # Python prints no huge ones
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, (list, tuple, dict, set)):
        return f"a {type(value).__name__} of {len(value)}"
    return cut(repr(value), 80)


def first_line(error: Exception) -> str:
    """What an error of another library says, without its traces and lists."""
    return str(error).strip().split("\n")[0]


def path_tail(name: str) -> str:
    """A file's name and its folder's: where it is on this machine is nobody's business."""
    return "/".join(name.replace("\\", "/").split("/")[-2:])


def did_you_mean(name: object, known: Iterable[str], prefix: str = "") -> str:
    """ "did you mean 'NEAREST'? " for a message about an unknown name; "" if no known name is near.

    Args:
        prefix: shown before the nearest name.
    """
    close = difflib.get_close_matches(str(name)[:100], known, n=1)
    return f"did you mean '{prefix}{close[0]}'? " if close else ""


def _printed(character: str) -> str:
    if unicodedata.category(character) not in _ESCAPED:
        return character
    # \n, \x1b, \u202e; a byte that is no text is the byte.
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:
        return f"\\x{number - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
