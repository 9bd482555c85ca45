"""The two ways in which a run ends early; our own mistakes stay plain assertions."""


class UserError(Exception):
    """Something that the person at the keyboard can mend: input, config, disk, credentials.

    The message is one line: what is wrong, where, and what to write instead. Scripts print it
    without a traceback and exit with code 2.
    """


class RunFailed(Exception):
    """A fold or a run that could not finish although its input was fine; scripts exit with code 1."""
