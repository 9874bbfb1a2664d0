"""The contract between the engine and an execution strategy (version 2).

A strategy is configuration: comparable, serializable, found by name. Opened, it gives a pool, which owns threads,
processes or a client. To a pool the engine hands tasks: where memory is shared, a task is something to call; elsewhere
it is bytes for `routilux_core.worker.run`, and what that returns is handed back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, Protocol

from attrs import Attribute, field, frozen

from routilux_core.errors import CapabilityError, ConfigurationError, StrategyError, brief
from routilux_core.seconds import check_seconds

if TYPE_CHECKING:
    import logging

CONTRACT = 2
MOST_WORKERS = 1_000_000  # a pool has something for each of them ready


Piece = bytes | bytearray | memoryview  # of a message: its head, or what is large in there


def _batch_seconds(value: Any) -> float:
    return check_seconds(value, "batch_seconds")


def _ahead_below(value: Any) -> float:
    return 0.0 if _is_number(value) and value == 0 else check_seconds(value, "ahead_below")


def _max_batch(value: Any) -> int:
    if _is_count(value):
        return value  # type: ignore[no-any-return]
    raise ConfigurationError(f"max_batch has to be a whole number from 1, not {brief(value)}")


def _yes_or_no(owner: Any, attribute: Attribute[bool], value: Any) -> None:
    if value is not True and value is not False:
        raise ConfigurationError(f"{attribute.name} has to be True or False, not {brief(value)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


@frozen(kw_only=True)
class Capabilities:
    """What a strategy can do; declared, never guessed.

    `shares_memory`: handlers run in this process; else tasks travel as bytes. `parallel`: several at a time.
    `coroutines`: awaits `async def` handlers. `enforces_timeout`: can end a running task. `streams`: emissions come
    back while a shipped task runs. `max_batch`: the most activations that one shipped task may hold, and
    `batch_seconds` the most measured run time; calls that take more than a quarter of that travel alone.
    `ahead_below`: mean seconds of a call below which a worker may have a second shipped task waiting. A slow channel
    wants more of both.
    """

    shares_memory: bool = field(validator=_yes_or_no)
    parallel: bool = field(default=True, validator=_yes_or_no)
    coroutines: bool = field(default=False, validator=_yes_or_no)
    enforces_timeout: bool = field(default=False, validator=_yes_or_no)
    streams: bool = field(default=False, validator=_yes_or_no)
    max_batch: int = field(default=1, converter=_max_batch)
    batch_seconds: float = field(default=0.004, converter=_batch_seconds)
    ahead_below: float = field(default=0.002, converter=_ahead_below)


class Unknown(Enum):
    """The type of `UNKNOWN`: for `at` of `Task.fail`, where a pool can't say which activation was running."""

    UNKNOWN = "unknown"


UNKNOWN: Final = Unknown.UNKNOWN


class Busy(StrategyError):
    """Raised by `submit`: the pool can't take this task now. It is given to it again after `retry_after` seconds.

    Or as soon as the pool says `host.workers_changed()`: with `math.inf` only then. Until one of them, the pool is
    given nothing else. No call fails of it.
    """

    def __init__(self, retry_after: float = 0.1) -> None:
        self.retry_after = check_seconds(retry_after, "retry_after")
        super().__init__(f"the pool can't take a task now; it is asked again after {self.retry_after:g} s")

    def __reduce__(self) -> tuple[type[Busy], tuple[float]]:
        return type(self), (self.retry_after,)


class Task(ABC):
    """One piece of work for a pool. The first `finish` or `fail` of a task wins; later ones are logged and ignored.

    `size` is the number of activations in it; `timeout` is in seconds from its start. `parts` are the keys of what a
    worker keeps: one that was sent `payload(known)` knows `known | parts` from then on. Only the methods for the kind
    of memory that the strategy declares work; all may be called from any thread, and none raises.
    """

    id: str
    size: int = 1
    timeout: float | None = None
    parts: frozenset[str] = frozenset()

    @property
    def routine_ids(self) -> tuple[str, ...]:
        """The routines whose calls are in it, in their order. Where memory is shared none: a task is all there is."""
        return ()

    def __call__(self) -> None:
        """Do the work here, in shared memory; returns when there is no more of it, and never raises."""
        raise NotImplementedError(f"task {self.id} travels as bytes: send payload() to routilux_core.worker.run")

    def payload(self, known: frozenset[str] = frozenset()) -> bytes:
        """Return what `routilux_core.worker.run` takes, without the parts in `known`, which that worker has."""
        raise NotImplementedError(f"task {self.id} shares memory with its pool: call it")

    def pieces(self, known: frozenset[str] = frozenset()) -> list[Piece]:
        """Return the same without a copy: a head, and beside it the buffers of large objects, from where they lie.

        For `worker.run(pieces=...)`, which needs them in this order, each in memory of its own that can be written to
        (a `bytearray`): what is unpickled there has it from then on.
        """
        return [self.payload(known)]

    def stream(self, chunk: bytes | Sequence[Piece]) -> None:
        """Take what `worker.run` gave to `send`: chunks in their order, before `finish`."""
        raise NotImplementedError(f"task {self.id} shares memory with its pool: call it")

    def finish(self, reply: bytes | Sequence[Piece]) -> None:
        """Take what `worker.run` returned."""
        raise NotImplementedError(f"task {self.id} shares memory with its pool: call it")

    async def arun(self) -> None:
        """Do the work in the running asyncio event loop: what a strategy that declares `coroutines` awaits instead.

        It shares the loop with other tasks of the pool, and may be cancelled: then the activation in hand is, too.
        """
        self.fail(CapabilityError(f"task {self.id} can't be awaited: its strategy does not declare coroutines"))

    @abstractmethod
    def fail(self, error: BaseException, at: int | Unknown | None = None) -> None:
        """Say that the pool could not run this task, or lost it.

        `at` is the index of the activation that was running (from `mark` of `worker.run`): that one failed, what was
        told before stands, and the rest is run again. `UNKNOWN`: one of those that were not told yet, which are run
        again, each in a task of its own, until it is known which. None: everything that was not told yet failed; of a
        routine with state, whose task is a transaction, only the first, and the rest is run again.
        """


class Done(Protocol):
    """What a waiting pool is told about: it is set once, when all the jobs waited for have ended."""

    def is_set(self) -> bool:
        """Return whether all the jobs waited for have ended."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, at most `timeout` seconds, and return whether it is."""

    def add_callback(self, callback: Callable[[], None], /) -> None:
        """Call this when it is set, or at once if it is set already. It must not block."""

    def remove_callback(self, callback: Callable[[], None], /) -> None:
        """Call this no more."""


class Host(Protocol):
    """What a pool may ask of the engine."""

    @property
    def log(self) -> logging.Logger: ...

    def preparation(self) -> bytes:
        """Return what `routilux_core.worker.prepare` takes in a new worker process, before its first task.

        Asked for in `open`. It holds the paths of this process and where its main module is, and no secrets.
        """

    def lost(self, error: BaseException, /) -> None:
        """Say that the executor broke: what is in flight fails, and the next job opens a new pool."""

    def workers_changed(self) -> None:
        """Say that `workers` of the pool is another number now, or that it is no longer `Busy`."""

    async def close_awaited(self) -> None:
        """Await the end of what was made with `per_worker` in this event loop and has `aclose` or `__aexit__`.

        For a pool that declares `coroutines`: when its handlers have ended, and before the loop does. `worker_ended`
        closes the rest.
        """

    def worker_ended(self) -> None:
        """Say, in the thread of a worker that ends, that what it made with `per_worker` can be closed."""


class Waiting(NamedTuple):
    """An activation that may run now, as a `Chooser` sees it. `cause` is the activation that emitted it."""

    job_id: str
    id: int
    cause: int | None
    routine_id: str
    slot: str
    payload: Mapping[str, Any]


# Given what may run now, oldest first: the index of what is next, or None for nothing. Called with the engine's lock
# held, for each activation: it must not block, nor call the engine.
Chooser = Callable[[Sequence[Waiting]], int | None]


class WorkerPool(ABC):
    """A live pool. The engine submits at most `workers` tasks at a time.

    `in_caller` says that tasks run inside `wait`, in the thread that waits: then `Flow.execute` waits, too. A pool with
    a `chooser` is for tests: it says which activation is next, and a task is one activation. It shares memory.
    """

    workers: int = 1
    in_caller: ClassVar[bool] = False
    chooser: Chooser | None = None

    @abstractmethod
    def submit(self, task: Task) -> None:
        """Take a task, from any thread; return before it runs; never raise (call `task.fail` instead).

        But for `Busy`, where the pool has no room for it now.
        """

    def cancel(self, task: Task) -> bool:
        """Try to take a task back; return whether that worked: it did not run, and will not."""
        return False

    def kill(self, task: Task) -> bool:
        """End the worker that runs this task, at once; return whether it will: `task.fail` follows.

        Where memory is shared, end the call that the task runs, if that can be done, by an exception that reaches its
        handler: of a job that is cancelled with `kill`, and, with `enforces_timeout`, of one whose time is over. The
        task itself goes on, and returns.
        """
        return False

    def spare(self, more: int) -> None:  # noqa: B027
        """Have room for one task more (1), or no longer (-1): a call whose time is over goes on in a worker of yours.

        Only tasks that share memory need it. By default nothing: then that worker is missing until the call returns.
        """

    def wait(self, done: Done, timeout: float | None) -> bool:
        """Wait until `done` is set or `timeout` seconds are over; return whether it is set."""
        return done.wait(timeout)

    def call_aside(self, call: Callable[[], None], /) -> bool:
        """Make this call of a plain handler in a thread beside your event loop, soon; False: it is made in the loop.

        Asked in the loop's thread, of pools that declare `coroutines`. The call never raises.
        """
        return False

    def runs_here(self) -> bool:
        """Return whether this thread runs the event loop in which this pool works: to wait here would stop it."""
        return False

    def is_over(self) -> bool:
        """Return whether this pool can run nothing any more, its loop being closed: the next job opens another."""
        return False

    def after_fork(self) -> None:  # noqa: B027
        """Say, in the child of a fork, that threads and processes of this pool are the parent's, as it is itself.

        Give back what the child has a copy of, and disturb nothing. It is not called any more, nor closed.
        """

    @abstractmethod
    def close(self, *, cancel: bool = False, timeout: float | None = None) -> bool | None:
        """End the workers; idempotent. `cancel` drops tasks not started; `timeout` bounds the wait in seconds.

        Beyond that it ends what still runs, where it can, and returns: False where it gave up on something, which still
        runs, and a warning then says so. When the interpreter exits, a pool that is open
        is closed with `cancel=True` and what is left of three seconds: then no thread can be started any more. The
        pool of a flow that nobody has any more is forgotten with it, and not closed: end what it began with
        `weakref.finalize`.
        """


def check_pool(pool: Any) -> WorkerPool:
    """Return what `open` gave, if it is a pool that the engine can use; anything else is refused, and says why."""
    if not isinstance(pool, WorkerPool):
        raise StrategyError(f"`open` returned {brief(pool)}, not a WorkerPool")
    check_workers(pool)
    if pool.chooser is not None and not callable(pool.chooser):
        raise StrategyError(f"the `chooser` of its pool is {brief(pool.chooser)}, and can't be called")
    return pool


def check_workers(pool: WorkerPool) -> int:
    """Return how many workers a pool has; what is no number of workers is refused."""
    workers: Any = pool.workers
    if not _is_count(workers) or workers > MOST_WORKERS:
        raise StrategyError(
            f"its pool has workers={brief(workers)}: that has to be a whole number from 1 to {MOST_WORKERS:,}, "
            "the most tasks at a time"
        )
    return int(workers)


def check_max_workers(value: Any) -> int | None:
    """Return a number of workers, or None for the strategy's own default; anything else is refused."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_WORKERS:
        raise ConfigurationError(
            f"max_workers has to be a whole number from 1 to {MOST_WORKERS:,}, or None for the strategy's default, not "
            f"{brief(value)}"
        )
    return value


@frozen(kw_only=True)
class ExecutionStrategy(ABC):
    """How activations are run: the configuration of a pool. Subclass it as a frozen, keyword-only attrs class.

    `contract` is the version of this module that the class was written for. Each class states it: what it inherited
    would be that of whichever version is installed.
    """

    contract: ClassVar[int]
    name: ClassVar[str]
    capabilities: ClassVar[Capabilities]
    max_workers: int | None = field(default=None, converter=check_max_workers)

    @abstractmethod
    def open(self, host: Host) -> WorkerPool:
        """Start a pool. May take seconds: it is called outside the engine's lock."""
