"""Exceptions as libraries write them, which don't survive pickling as they are."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

from routilux_core import Routine


class Inner(Exception):
    """As those of urllib3: another text after the round trip."""

    def __reduce__(self) -> Any:
        return Inner, (f"None: {self.args[0]}",)


class Transient(Exception):
    """As those of requests: it holds another one."""


class KeywordOnly(Exception):
    def __init__(self, code: int, *, number: int) -> None:
        self.code, self.number = code, number

    def __str__(self) -> str:
        return f"{self.code} of {self.number}"


class Wraps(Exception):
    """Makes its argument from its parameter, again and again."""

    def __init__(self, number: int) -> None:
        super().__init__(f"wraps {number}")
        self.number = number


class WithSlots(Exception):
    __slots__ = ("x",)

    def __init__(self, x: int, y: int) -> None:
        super().__init__()
        self.x = x


class OfSystem(OSError):
    def __init__(self, code: int) -> None:
        super().__init__(code, f"text of {code}")
        self.code = code


class Refuses(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("not to be pickled")


class WithProperty(Exception):
    def __init__(self, code: int, more: object) -> None:
        super().__init__(code)
        vars(self)["code"] = code

    @property
    def code(self) -> int:
        return int(vars(self)["code"])


class OwnGroup(ExceptionGroup[Exception]):
    def __new__(cls, members: list[Exception]) -> OwnGroup:
        return super().__new__(cls, "own", members)


def _hidden() -> type[Exception]:
    class LosesItself(Exception):
        """Its class can be found by no name, and holds what can't be copied."""

        lock = threading.Lock()

    return LosesItself


LosesItself = _hidden()
LosesItself.__qualname__ = "LosesItself"
LosesItself.__module__ = "nowhere"


KINDS: dict[str, Callable[[], BaseException]] = {
    "text changes": lambda: Transient(Inner("Pool(host='x'): timed out")),
    "keyword only": lambda: KeywordOnly(1, number=2),
    "wraps": lambda: Wraps(3),
    "slots": lambda: WithSlots(1, 2),
    "system": lambda: OfSystem(5),
    "refuses": lambda: Refuses("a"),
    "property": lambda: WithProperty(1, 2),
    "group": lambda: OwnGroup([ValueError(1), Wraps(2)]),
    "group of odd ones": lambda: ExceptionGroup("some", [Refuses("a"), Transient(Inner("b"))]),
    "a lock": lambda: ValueError("with", threading.Lock()),
    "not a number": lambda: ValueError(float("nan")),
    "json": lambda: json.JSONDecodeError("bad", "document", 3),
    "file": lambda: FileNotFoundError(2, "No such file", "name"),
    "import": lambda: ImportError("no", name="n", path="p"),
    "unicode": lambda: UnicodeDecodeError("utf8", b"x", 0, 1, "bad"),
    "exit": lambda: SystemExit(3),
    "stop": lambda: StopIteration(4),
    "key": lambda: KeyError("k"),
}


class Fails(Routine, stateless=True):
    kind: str

    def __call__(self) -> None:
        raise KINDS[self.kind]()
