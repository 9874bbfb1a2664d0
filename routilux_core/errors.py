"""The exceptions: each says what was asked, what exists and what to do next, and carries the objects as attributes."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from routilux_core._text.printable import printable


class RoutiluxError(Exception):
    """The base of every error that the engine raises itself."""


class ConfigurationError(RoutiluxError, ValueError):
    """A setting has a value that can't work."""


class DuplicateNameError(ConfigurationError):
    """A name, a routine or a connection is there already."""


class UnknownNameError(RoutiluxError, LookupError, ValueError):
    """A name was asked for that does not exist here."""

    def __init__(self, kind: str, asked: object, known: Iterable[str], advice: str = "") -> None:
        self.kind = kind
        self.asked = asked
        self.known = sorted(known)
        super().__init__(f"unknown {kind} {asked!r}{_close_to(asked, self.known)}{advice and f'. {advice}'}")


class UnknownStrategyError(UnknownNameError):
    """No installed execution strategy has this name."""


class DefinitionError(RoutiluxError, TypeError):
    """A routine class or a handler is written in a way that can't work."""


class SealedRoutineError(RoutiluxError, AttributeError):
    """An attribute of a stateless routine was assigned after it had been added to a flow."""


class PayloadError(RoutiluxError, TypeError):
    """What arrived at a slot does not fit its handler, or what was to be emitted is no payload."""

    absent: tuple[str, ...] = ()  # the parameters for which nothing came

    def at_entry(self) -> PayloadError:
        """Return the same for the entry of a job, where no connection can help."""
        if not self.absent:
            return self
        text = str(self).partition(";")[0]
        names = ", ".join(f"{name!r}: ..." for name in self.absent)
        return PayloadError(f"{text}; give it in entry_params, {{{names}}}, or give the parameter a default")


class FlowStateError(RoutiluxError, RuntimeError):
    """The call came at a moment at which the flow or job can't allow it."""


class EmitError(FlowStateError):
    """`emit` was called outside the handler that it belongs to."""


class StrategyError(RoutiluxError, RuntimeError):
    """An execution strategy can't be loaded or opened, or its executor broke."""


class CapabilityError(StrategyError):
    """The flow needs what its execution strategy does not have."""


class Problem(NamedTuple):
    """One thing that keeps a flow or a job from being saved or loaded: where it is, and what is wrong there."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class SerializationError(RoutiluxError, ValueError):
    """Something can't be saved or loaded; `problems` holds each reason with its path."""

    def __init__(self, what: str, problems: Sequence[Problem]) -> None:
        self.what = what
        self.problems = tuple(problems)
        super().__init__("\n  ".join([f"{what}:", *map(str, self.problems)]))


class SavedError(RoutiluxError):
    """An exception that was read from a saved job: its type's name and its message, since data is never code."""

    def __init__(self, type_name: str, message: str) -> None:
        self.type_name = type_name
        self.message = message
        super().__init__(printable(f"{type_name}: {message}"))


class JournalError(RoutiluxError, OSError):
    """A journal can't be opened, read or written, or what it holds does not fit the flow. The file stays as it is."""

    def __str__(self) -> str:
        return str(self.strerror if len(self.args) > 1 else super().__str__())


class CallInDoubt(RoutiluxError):
    """A call ran when its process died, and its routine says `on_crash="fail"`: it is not made again by itself."""


class NotAdmitted(RoutiluxError):
    """A handler was not called, because a plugin has decided so before (`routilux_admit`)."""


class ActivationTimeout(RoutiluxError, TimeoutError):
    """A handler ran longer than the time-out of its routine.

    `late_emissions` is how many it had emitted by then, if a worker elsewhere has dropped them.
    """

    late_emissions = 0


class JobTimeout(RoutiluxError, TimeoutError):
    """A job had not ended when the time-out of `Flow.run` was over, and was cancelled: `job_id`, `timeout`."""

    def __init__(self, job_id: str, timeout: float) -> None:
        self.job_id = job_id
        self.timeout = timeout
        super().__init__(f"job {printable(job_id)} had not ended after {timeout:g} s, and was cancelled")

    def __reduce__(self) -> tuple[type[JobTimeout], tuple[str, float]]:
        return type(self), (self.job_id, self.timeout)


class WorkerLost(RoutiluxError, RuntimeError):
    """The worker that ran an activation died: `worker` is its process id or name, `reason` is text."""

    def __init__(self, message: str = "", *, worker: int | str | None = None, reason: str = "") -> None:
        self.worker = worker
        self.reason = reason
        named = "the worker" if worker is None else f"worker {worker}"
        super().__init__(message or f"{named} was lost while it ran this activation{reason and f': {reason}'}")


class ShippingError(RoutiluxError, TypeError):
    """Something can't be sent to a worker process or back: `path` says what, `value` is the object if it is here."""

    def __init__(self, message: str, path: str = "", value: object = None) -> None:
        self.path = path
        self.value = value
        super().__init__(message)

    def __reduce__(self) -> tuple[type[ShippingError], tuple[str, str]]:
        return type(self), (str(self), self.path)  # the value is what can't be pickled


class RemoteError(RoutiluxError, RuntimeError):
    """Stands for an exception of a worker process that can't be rebuilt here: `type_name`, `text`, `traceback`."""

    def __init__(self, type_name: str, text: str, traceback: str = "") -> None:
        self.type_name = type_name
        self.text = text
        self.traceback = traceback
        super().__init__(type_name, text, traceback)

    def __str__(self) -> str:
        return f"{self.type_name}: {self.text}"


def _close_to(asked: object, known: list[str]) -> str:
    from routilux_core._text.hints import Hints  # with it comes difflib, which nobody needs whose names are right

    hint = Hints().hint(str(asked), known)
    shown = ", ".join(repr(name) for name in known[:20]) or "none"
    return f"{hint} (there is: {shown}{', ...' if len(known) > 20 else ''})"


_TRACEBACK = vars(BaseException)["__traceback__"].__get__  # whatever a class of somebody else's makes of that name
UNREADABLE = "(the exception can't be shown in full: "  # how the text of a traceback begins that could not be formatted


def is_interrupt(error: BaseException) -> bool:
    """Return whether an exception is for the main thread itself: a Ctrl-C, or what a signal handler has raised in it.

    Whoever calls code of somebody else's there must not keep it: an exit on SIGTERM, or the end of a time limit.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    return isinstance(error, KeyboardInterrupt) or _comes_from_signal(error)


def _comes_from_signal(error: BaseException) -> bool:
    """Return whether an exception passed through a function that is a signal handler now."""
    import signal
    import traceback

    handlers = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()} - {None}
    passed = (frame.f_code for frame, _ in traceback.walk_tb(_TRACEBACK(error, None))) if handlers else ()
    return any(code in handlers for code in passed)


def _code_of(handler: object) -> object:
    """Return the code of a function, a method, or what `functools.partial` has made of one; None for anything else."""
    if not callable(handler):  # SIG_DFL, SIG_IGN, or nothing
        return None
    function = getattr(handler, "func", handler)
    return getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)


def ends_program(error: BaseException) -> bool:
    """Return whether what a handler has raised is for the program: in the main thread a Ctrl-C, or an exit.

    Not asked of what foreign objects raise in passing, whose `__str__` may exit: that ends nothing. What a signal
    handler has raised in a handler may be meant for that: it has failed, as with any exception.
    """
    kinds = (KeyboardInterrupt, SystemExit)
    return isinstance(error, kinds) and threading.current_thread() is threading.main_thread()


def text_of(error: BaseException) -> str:
    """Return what an exception says, whatever its own `__str__` does."""
    try:
        return str(error)
    except BaseException as broken:
        if is_interrupt(broken):
            raise
        return "<its __str__ raises>"


def repr_of(error: BaseException) -> str:
    """Return the `repr` of an exception, whatever its own `__repr__` does."""
    try:
        return repr(error)
    except BaseException as broken:
        if is_interrupt(broken):
            raise
        return f"<{type(error).__qualname__}: its __repr__ raises>"


def trace_of(error: BaseException) -> str:
    """Return an exception with its traceback as text, whatever its own methods, and those of what it names, do."""
    import traceback

    try:
        return "".join(traceback.format_exception(error))
    except BaseException as broken:  # its notes raise, say; or `__getattr__` of an object that a typo looked into
        if is_interrupt(broken):
            raise
        reason = f"{UNREADABLE}{type(broken).__name__})\n"
    places = [
        f'  File "{frame.f_code.co_filename}", line {line}, in {frame.f_code.co_name}\n'
        for frame, line in traceback.walk_tb(_TRACEBACK(error, None))
    ]
    head = "Traceback (most recent call last):\n" if places else ""
    return f"{reason}{head}{''.join(places)}{type(error).__qualname__}: {text_of(error)}\n"


def brief(value: object) -> str:
    """Return what a value that is refused looks like, in short: an integer may have thousands of digits."""
    from routilux_core._text.values import look_of  # only for a mistake

    try:
        return look_of(value, 60)
    except Exception:
        return f"{type(value).__name__} of very many digits, or without a repr"
