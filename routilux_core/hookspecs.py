"""The hooks of Routilux Core: what a plugin may implement, when it is called, and what it may do there.

There are three families.

*Strategies.* `routilux_make_strategy` turns a name into an execution strategy. Most packages don't need it: they
declare their class in the entry-point group `routilux_core.strategies`. It is for names that are no class: a pool
made in the program, a name with a pattern such as `ssh:host`.

*Error handling.* `routilux_handle_error` decides about an exception before the policies of the routine and the flow do.
`routilux_admit` is asked before each call, and may spare it.

*Tracking.* The others tell what happens. They can't change what a job does, and return nothing, but for
`routilux_carry`: that is what goes along to workers elsewhere.

A plugin is a module, an object, or a class (which is called without arguments). It is found through an entry point in
the group `routilux_core.plugins`, or given to one flow with `Flow(plugins=[...])`. Installed trackers listen to every
flow. Those that decide, about errors or strategies, act only where they are named: in `Flow(plugins=["name"])`, or for
all flows of a process in `ROUTILUX_PLUGINS=name`. Implementations are marked::

    from routilux_core import hookimpl

    @hookimpl
    def routilux_job_finished(job):
        print(job.job_id, job.status)

An implementation may leave out arguments that it doesn't use. What comes as an argument is a record: it may get further
attributes, and old plugins keep working.

The rules for all tracking hooks. Every hook fires in the process of the flow, whatever strategy runs the handlers.
Which hooks anyone listens to is worked out once for each job, when it starts. Listeners are called one by one. One that
raises is logged and not called again in that job, and nothing else changes. A wrapper (`hookimpl(wrapper=True)`) is
refused: it could swallow the calls of others. Of one job, the calls of the two job hooks and of the batch hook never
overlap. One that takes its time stalls neither time limits, retries, other jobs nor worker processes: it is called on a
worker's own thread, or on one that nothing waits for but who waits for the job. Where it can't keep up with what is
run, workers wait for it. Waiting for a flow or a job inside a hook is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pluggy
from attrs import define, field, frozen

from routilux_core.error_handling import Decision, Failure
from routilux_core.job import JobState
from routilux_core.records import ActivationRecord
from routilux_core.strategy import ExecutionStrategy

PROJECT = "routilux_core"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@frozen(kw_only=True)
class StrategyRequest:
    """A strategy that was asked for by name, with the numbers and options given beside it.

    `flow_id` is the flow that it is for, None where `make_strategy` was called. `routine_id` is the first routine that
    named it as its own, None for the strategy of the flow, and of a flow that was loaded.
    """

    name: str
    max_workers: int | None = None
    options: Mapping[str, Any] = field(factory=dict, repr=lambda each: str([*each]))  # a value may be a password
    flow_id: str | None = None
    routine_id: str | None = None


@define(kw_only=True, eq=False)
class Activation:
    """One call of a handler that is about to be made. `cause` is the activation that emitted what started it.

    At a gather slot that is None, and `causes` has those of all that has arrived.
    `data` is what the handler gets, after merging; read it and change nothing. Times are of `time.perf_counter`.
    `worker` is 0 where memory is not shared: the call is only sent, and nobody has it yet.
    """

    job_id: str
    id: int
    cause: int | None
    causes: tuple[int, ...] = ()
    routine_id: str
    slot: str
    attempt: int
    worker: int
    posted: float
    started: float
    data: Mapping[str, Any] = field(repr=False)


@define(kw_only=True, eq=False)
class Emission:
    """One emission that has left a handler. `activation` is the id of the call that made it.

    `targets` are pairs of routine id and slot, in the order posted; `data` is what was emitted, to be read only.
    """

    job_id: str
    activation: int
    routine_id: str
    event: str
    targets: tuple[tuple[str, str], ...]
    time: float
    data: Mapping[str, Any] = field(repr=False)


# -- strategies


@hookspec(firstresult=True)
def routilux_make_strategy(request: StrategyRequest) -> ExecutionStrategy | None:
    """Return the strategy of this name, or None where the name is somebody else's.

    Called on the thread that makes a flow or changes its strategy, for every name but the bundled ones, which are
    reserved. The look-up of entry points is the last implementation. It may raise a `RoutiluxError`, which reaches the
    caller: the name is its own and something is wrong. Any other exception is logged, and counts as None.
    """


# -- error handling


@hookspec(firstresult=True)
def routilux_handle_error(failure: Failure) -> Decision | None:
    """Return what to do about an exception in a handler, or None to leave it to the next plugin, and to the policies.

    Called on the thread on which the handler ran (in the flow's process), several at a time under a parallel strategy,
    for each attempt that raised. The policy of the routine, else of the flow, is the last implementation. One that
    raises, or returns anything else, is logged and counts as None. A RETRY is refused, and left to the policy, where
    `failure.emitted` says that the attempt has emitted already: what it sent would be sent twice. Only under a policy
    that was RETRY when the call began are emissions held until it has succeeded.
    """


@hookspec(firstresult=True)
def routilux_admit(activation: Activation) -> Decision | None:
    """Return None to let a handler be called, or what is to be done instead: the activation fails with `NotAdmitted`.

    With SKIP, CONTINUE and STOP it counts, and is told, as a call that failed and was decided so. With RETRY it counts
    as an attempt, and you are asked again after `delay` seconds. `activation.data` is what has arrived, before merging.
    Called on the worker's thread, several at a time under a parallel strategy; where memory is not shared, in this
    process when the call is about to be sent, which it is alone, and again if its worker died. One that raises, or
    returns anything else, is logged and counts as None. Where nobody implements it, it costs nothing; else some
    10 µs for each call.
    """


# -- tracking


@hookspec
def routilux_job_started(job: JobState) -> None:
    """Tell that a job begins.

    Called on the thread that called `execute`, when the entry is queued and nothing has run. The job may be paused or
    cancelled here. An exception is logged and mutes the plugin for this job.
    """


@hookspec
def routilux_job_finished(job: JobState) -> None:
    """Tell that a job has ended, with its final status, ledger and errors.

    Called on a thread of its own, under `sequential` on the one that does the work. Those who wait for the job go on
    after this, so what a tracker writes here is there when `wait_for_completion` returns. The flow may be changed here,
    its strategy too, where no other job runs. An exception is logged.
    """


@hookspec
def routilux_activations_finished(job: JobState, records: Sequence[ActivationRecord]) -> None:
    """Tell what was run: at most 256 records at a time, oldest first, at most some 50 ms after the first of them ended.

    Several workers bring theirs one after the other, so a batch may hold records older than the newest of the last one.
    Called on a worker's thread, or on one for this. Every attempt has a record, a retried one too; all of them
    come before `routilux_job_finished`. An exception is logged and mutes the plugin for this job.
    """


@hookspec
def routilux_failure_decided(job: JobState, failure: Failure, payload: Mapping[str, Any]) -> None:
    """Tell what was decided about an exception in a handler: `failure.decision`, of each attempt that failed.

    `payload` is what had arrived for the call, before it was merged (at a gather slot, a list under each name); read it
    and change nothing. The failure itself, which a job keeps, has only its names.
    Called on the worker's thread, several at a time under a parallel strategy, before the call is counted and recorded;
    where memory is not shared, and for coroutines, on a thread for this. All of them come before
    `routilux_job_finished`. An exception is logged and mutes the plugin for this job.
    """


@hookspec
def routilux_carry(job: JobState) -> Callable[[], AbstractContextManager[object]] | None:
    """Return what goes along to the workers where memory is not shared: the context of a trace, say.

    What is returned is pickled once. In the worker it is called for each task, without arguments, and makes a context
    manager in which the calls of that task run; context variables that this sets are seen by each of them. So it is a
    function of an importable module, or a `functools.partial` of one.
    Called on the thread that sends the first task of a job, after `routilux_job_started`, once; others wait for it, so
    it should be quick. An exception is logged and mutes the plugin for this job; what can't be pickled, or raises in
    the worker, is logged and left out. Where all memory is shared it is not called.
    """


@hookspec
def routilux_activation_started(activation: Activation) -> None:
    """Tell that a handler is about to be called. In detail, for debugging: it slows down every call.

    Called on the worker's thread, several at a time under a parallel strategy; where memory is not shared, in this
    process, on a thread for this, when the call is sent, which it is alone. There it is told of again if its worker
    died before it began. An exception is logged and mutes the plugin for this job.
    """


@hookspec
def routilux_event_emitted(emission: Emission) -> None:
    """Tell that an emission was posted. In detail, for debugging: it slows down every emission.

    Called on the worker's thread, inside `emit`; what a handler under a RETRY policy emits is told when it leaves,
    after the call. Where memory is not shared, in this process, on a thread for this, when it has come home. An
    exception is logged and mutes the plugin for this job.
    """
