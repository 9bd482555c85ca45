"""Text from a stranger's files, as YAML, as a comment, as a line on the terminal."""

import json
import re
from collections.abc import Sequence


def one_line(text: str) -> str:
    """The text on one line: line breaks, control characters and what else cannot be seen become single spaces."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def few(names: Sequence[object], most: int) -> str:
    """The first names, and how many there are in all."""
    return ", ".join(str(name) for name in names[:most]) + (f", ... ({len(names)})" if len(names) > most else "")


def scalar(value: object) -> str:
    """A value as YAML 1.2: plain where that is surely read back as the same text."""
    if value is None:
        return "null"
    if isinstance(value, list):
        return "[" + ", ".join(scalar(part) for part in value) + "]"
    if isinstance(value, str):
        plain = re.fullmatch(r"[A-Za-z_][\w./-]*", value, re.ASCII) and value.lower() not in {"null", "true", "false"}
        return value if plain else "".join(map(_escaped, json.dumps(value, ensure_ascii=False)))
    return json.dumps(value)


def _escaped(character: str) -> str:
    return character if character.isprintable() else f"\\U{ord(character):08x}"
