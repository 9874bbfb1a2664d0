"""'Did you mean ...?': the known name that is most like one that was asked for, found within a bounded effort."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

ALIKE = 0.6  # from here on names are like each other, as in `difflib.get_close_matches`
EFFORT = 5_000_000  # steps of some 15 ns, counted as if every name were the worst: a tenth of a second
LETTER = 16  # steps for each letter that is counted before names are compared


class Hints:
    """Looks for names that are like one asked for. One object's searches share the effort: those for one file."""

    def __init__(self, effort: int = EFFORT) -> None:
        self._left = effort

    def hint(self, asked: str, known: Iterable[str]) -> str:
        """Return the end of a message, with the name that is most like the one asked for; empty where none is.

        Empty, too, where looking would take longer than what is left.
        """
        close = self._closest(asked, known)
        return f"; did you mean {close!r}?" if close is not None else ""

    def _closest(self, asked: str, known: Iterable[str]) -> str | None:
        if not self._spend(LETTER * len(asked)):
            return None
        matcher: SequenceMatcher[str] = SequenceMatcher(b=asked, autojunk=False)
        best, closest = ALIKE, None
        for name in known:
            if not self._spend(LETTER * (len(asked) + len(name))):
                return None
            matcher.set_seq1(name)
            if matcher.real_quick_ratio() < best or matcher.quick_ratio() < best:
                continue
            # The square of one length for each letter of the other, where letters repeat: difflib's worst.
            if not self._spend(len(asked) * len(name) * min(len(asked), len(name))):
                return None
            ratio = matcher.ratio()
            if ratio >= best and (closest is None or ratio > best):
                best, closest = ratio, name
        return closest

    def _spend(self, steps: int) -> bool:
        self._left -= steps
        return self._left >= 0
