"""The frames that an exception keeps alive, with everything that was in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# Read and set past whatever a class of somebody else's makes of these names.
_CAUSE, _CONTEXT, _ARGS, _DICT = (
    vars(BaseException)[name].__get__ for name in ("__cause__", "__context__", "args", "__dict__")
)
_GROUPED: Any = vars(BaseExceptionGroup)["exceptions"].__get__
_LOOKED_INTO: Any = vars(AttributeError)["obj"].__set__


def forget_frames(error: BaseException, alive: BaseException | None) -> None:
    """Let an exception, and all that it came from or holds, go without the frames that it passed through.

    A frame has the payload and all that its handler had in hand, and leads to those of its callers. Not so what belongs
    to `alive`: that is still being handled further down the stack, by somebody who needs its traceback.
    """
    kept = set() if alive is None else {id(each) for each in _with_it(alive)}
    for each in _with_it(error):
        if id(each) not in kept:
            BaseException.with_traceback(each, None)
            if issubclass(type(each), AttributeError):
                _LOOKED_INTO(each, None)  # what had no such attribute: a payload, say


def _with_it(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and all that it leads to: what it came from, members of a group, what it was made of."""
    seen: set[int] = set()
    left: list[Any] = [error]
    while left:
        each = left.pop()
        if issubclass(type(each), BaseException) and id(each) not in seen:
            seen.add(id(each))
            yield each
            left += (_CAUSE(each), _CONTEXT(each), *_ARGS(each), *_DICT(each).values())
            if issubclass(type(each), BaseExceptionGroup):
                left += _GROUPED(each)
