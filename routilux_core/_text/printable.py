"""Text of others for a terminal or a log: what either would obey, a line break among it, is spelled out."""

from __future__ import annotations


class Lines(str):
    """Text that is meant to have several lines: of each of them, the rest is spelled out."""

    __slots__ = ()

    def __new__(cls, text: str) -> Lines:
        return super().__new__(cls, text if text.isprintable() else "".join(map(_in_a_line, text)))


class Told(str):
    """Text that is one line where it is put into another: `%s` spells it out, and `%r` is what it always was."""

    __slots__ = ()

    def __str__(self) -> str:
        return printable(str.__str__(self))


def printable(text: str) -> str:
    """Return a text as one line that moves no cursor: an id or a name, from a file perhaps, may hold anything."""
    return text if text.isprintable() else "".join(map(_spelled, text))


def _spelled(letter: str) -> str:
    return letter if letter.isprintable() else ascii(letter)[1:-1]


def _in_a_line(letter: str) -> str:
    return letter if letter in "\n\t" else _spelled(letter)
