"""What the doctor says: findings, each on one line, and why a text is almost the one that was meant."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

SHOWN = 3  # examples in a finding
LONGEST_TEXT = 60  # characters of a cell in a finding


@dataclass(frozen=True)
class Finding:
    """An error, which the competition would refuse or misread, or a note; where, what is wrong, and how to mend it."""

    level: Literal["error", "note"]
    where: str
    what: str
    mend: str
    judgement: bool = False
    """About what was predicted, not how it is written: a good file may have it."""

    def __str__(self) -> str:
        return printable(f"{self.level}: {self.where}: {self.what}; {self.mend}")


def printable(text: str) -> str:
    """The text on one line; what cannot be seen, spaces of other alphabets too, is escaped."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape", "backslashreplace").decode() for letter in text)


def quote(text: str) -> str:
    """A cell's text in quotes, cut where it is long."""
    return f'"{text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "..."}"'


def quote_some(texts: Sequence[str]) -> str:
    """The first few texts in quotes."""
    return ", ".join(map(quote, texts[:SHOWN])) + (", ..." if len(texts) > SHOWN else "")


def count(number: int, name: str) -> str:
    """1 row, 1,000 rows."""
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def letters(column: int) -> str:
    """A column's name in a spreadsheet: 0 is A, 26 is AA."""
    return (letters(column // 26 - 1) if column >= 26 else "") + chr(ord("A") + column % 26)


def at(row: int | None, column: int | None = None, name: str = "") -> str:
    """A place as a spreadsheet counts it: row 3, column B (label)."""
    parts = [] if row is None else [f"row {row:,}".replace(",", "")]
    return ", ".join(parts + ([] if column is None else [f"column {letters(column)} ({name})" if name else f"column {letters(column)}"]))


# ---------------------------------------------------------------- almost the text that was meant


@dataclass(frozen=True)
class Difference:
    """A way in which programs change a text; `key` is equal for the text before and after."""

    phrase: str
    key: Callable[[str], str]
    applies: Callable[[str, str], bool]
    mend: str


def _digits(text: str) -> str:
    whole, _, fraction = text.strip().partition(".")
    return (text if fraction.strip("0") else whole).lstrip("0")


def _stem(text: str) -> str:
    stem, _, ending = text.rpartition(".")
    return stem if stem and 2 <= len(ending) <= 5 and ending.isalnum() and ending[0].isalpha() else text


def _value(text: str) -> str:
    """A number in scientific notation as spreadsheets shorten it, six digits."""
    try:
        return f"{float(text):.5e}" if text[:1].isdigit() and len(text) < 300 else text
    except (ValueError, OverflowError):
        return text


def _composed(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFKC", text)


def _any(_have: str, _meant: str) -> bool:
    return True


AS_TEXT = "read that column as text: pd.read_csv(..., dtype=str), in a spreadsheet import it as text"
SPACES = Difference("with spaces before or after", str.strip, _any, "strip them")
AS_FLOAT = Difference("as a float", _digits, lambda have, _: bool(re.search(r"\d\.0+\s*$", have)), AS_TEXT)
CASE = Difference("in another case", str.casefold, _any, "write upper and lower case as they are there")
DIFFERENCES = (
    SPACES,
    AS_FLOAT,
    Difference("with lost leading zeros", lambda text: text.lstrip("0"), lambda have, meant: len(have) < len(meant), AS_TEXT),
    Difference("with added leading zeros", lambda text: text.lstrip("0"), _any, AS_TEXT),
    CASE,
    Difference("with another file ending or none", _stem, _any, "write the ending as it is there"),
    Difference("with another folder or none", lambda text: text.replace("\\", "/").rpartition("/")[2] or text, _any, "write the path as it is there"),
    Difference("in scientific notation", _value, lambda have, _: "e" in have.lower(), AS_TEXT),
    Difference("of other characters that look the same", _composed, _any, "copy them from there"),
)


def explain(odd: Iterable[str], meant: Iterable[str], differences: Sequence[Difference] = DIFFERENCES) -> dict[str, tuple[Difference, str]]:
    """For each odd text that differs from a meant one by what a program does to texts: how, and from which."""
    left, known = list(dict.fromkeys(odd)), list(dict.fromkeys(meant))
    found: dict[str, tuple[Difference, str]] = {}
    for difference in differences:
        if not left or not known:
            break
        keys = {difference.key(text): text for text in left}
        nearest: dict[str, str] = {}
        for text in known:
            key = difference.key(text)
            if key in keys:
                nearest.setdefault(key, text)
        for text in left if nearest else ():
            original = nearest.get(difference.key(text))
            if original is not None and original != text and difference.applies(text, original):
                found[text] = (difference, original)
        left = [text for text in left if text not in found]
    return found


def by_difference(explained: dict[str, tuple[Difference, str]]) -> dict[Difference, list[tuple[str, str]]]:
    """The odd texts and what was meant, by how they differ."""
    result: dict[Difference, list[tuple[str, str]]] = {}
    for text, (difference, original) in explained.items():
        result.setdefault(difference, []).append((text, original))
    return result


def where_meant(pairs: Sequence[tuple[str, str]], owner: str) -> str:
    """The first few pairs: "7" where the sample has "007"."""
    first, *others = [f"{quote(text)} where {owner} has {quote(original)}" for text, original in pairs[:1]] + [
        f"{quote(text)} for {quote(original)}" for text, original in pairs[1:SHOWN]
    ]
    return ", ".join([first, *others]) + (", ..." if len(pairs) > SHOWN else "")
