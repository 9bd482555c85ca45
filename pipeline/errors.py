"""The ways in which a run ends early; our own mistakes stay plain assertions."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something that the person at the keyboard can mend: input, config, disk, credentials.

    The message is one line: what is wrong, where, and what to write instead. Scripts print it
    without a traceback and exit with code 2.
    """


class RunFailed(Exception):
    """A fold or a run that could not finish although its input was fine; scripts exit with code 1."""


class Stopped(Exception):
    """Raised by what watches a run, to end it: what is trained so far stays, and nothing is amiss."""


def did_you_mean(word: str, known: Iterable[str], count: int = 1) -> str:
    """The end of an error about an unknown word: the nearest known ones, or all if they are few."""
    known = sorted(known)
    lower = {name.lower(): name for name in known}
    near = [lower[name] for name in difflib.get_close_matches(word.lower(), lower, n=count, cutoff=0.5)]
    if near:
        return "; did you mean " + " or ".join(f'"{name}"' for name in near) + "?"
    return f"; known: {', '.join(known)}" if 0 < len(known) <= 20 else ""
