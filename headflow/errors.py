"""The one exception that a user is meant to read."""

import re

# Control characters but tab and newline, and those that turn the direction of writing: a message may quote data, and is shown on a terminal.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def readable(text: str) -> str:
    """``text`` as it can be shown on any terminal: what would steer the terminal or turn the line around is U+FFFD."""
    return _UNSEEN.sub("\ufffd", text)


class HeadflowError(Exception):
    """A foreseeable mistake: its message says what is wrong, where, and what to do, on one line.

    The stages print the message and exit with status 1; library users catch it like any exception.
    """

    def __str__(self) -> str:
        return readable(super().__str__())
