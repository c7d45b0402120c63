"""The one exception that a user is meant to read."""


class HeadflowError(Exception):
    """A foreseeable mistake: its message says what is wrong, where, and what to do, on one line.

    The stages print the message and exit with status 1; library users catch it like any exception.
    """
