"""All that the check of random flows knows of the engine's inside; the mutants, beside this, know the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from routilux_core import Flow, JobState


def at_the_end(state: JobState, call: Callable[[], None]) -> None:
    """Call in the thread that ends the job, in the moment in which it ends."""
    state._controls.run.ending.done.add_callback(call)


def leftovers(flow: Flow, states: Iterable[JobState]) -> Iterator[str]:
    """Look for what a flow without jobs must not have: waiting work, permits held, timers."""
    engine, states = flow._runtime.engine, list(states)
    with engine.lock:
        if engine.runs:
            yield f"{len(engine.runs)} jobs still run"
        if len(engine.timers):
            yield f"{len(engine.timers)} timers left"
        for scheduler in engine.schedulers:
            if scheduler.ready.queued():
                name, ready, permits = scheduler.strategy.name, scheduler.ready.backlog(), len(scheduler.ready.first)
                yield f"scheduler {name!r}: {ready} ready, {permits} with permits"
        twins = [twin for state in states for twin in state._controls.run.own.values()]
        for node in [*engine.nodes.values(), *twins]:
            box = node.mailbox
            if box.waiting:
                yield f"{node.routine_id}: {len(box.waiting)} wait for a permit"
            if box.free != box.limit:
                yield f"{node.routine_id}: {box.free} permits of {box.limit} are free"
        for state in states:
            run = state._controls.run
            kept = {"retries": len(run.retries), "parked": len(run.parked)}
            if state.status != "cancelled":  # else retries were discarded, and their attempts are records
                kept["attempts"] = len(run.retries.attempts)
            if any(kept.values()):
                yield f"{state.job_id} keeps {kept}"


def idle_pools(flow: Flow) -> Iterator[str]:
    """Look for workers that are still counted after shutdown."""
    for scheduler in flow._runtime.engine.schedulers:
        if scheduler.crew.active or scheduler.crew.recruiting:
            name, active = scheduler.strategy.name, scheduler.crew.active
            yield f"scheduler {name!r}: {active} workers active, recruiting: {scheduler.crew.recruiting}"


# -- what the check of the check leaves behind, one at a time, to see it noticed


def hold_a_permit(flow: Flow) -> None:
    with flow._runtime.engine.lock:
        next(node for node in flow._runtime.engine.nodes.values() if node.mailbox.limited).mailbox.acquire()


def leave_one_waiting(flow: Flow) -> None:
    next(iter(flow._runtime.engine.nodes.values())).mailbox.waiting.append(None)


def leave_one_ready(flow: Flow) -> None:
    flow._runtime.engine.schedulers[0].ready.queue.append(None)


def leave_a_job(flow: Flow) -> None:
    flow._runtime.engine.runs.add(object())


def leave_a_timer(flow: Flow) -> Callable[[], None]:
    """Leave one, and return what takes it back: its thread would stay."""
    engine = flow._runtime.engine
    with engine.lock:
        timer = engine.timers.add(3600.0, lambda: None)

    def take_back() -> None:
        with engine.lock:
            timer.cancel()
            engine.timers.wake()

    return take_back
