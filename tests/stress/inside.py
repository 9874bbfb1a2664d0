"""All that the check of random flows knows of the dispatcher's inside; the mutants, beside this, know the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from routilux_core import Flow, JobState


def at_the_end(state: JobState, call: Callable[[], None]) -> None:
    """Call in the thread that ends the job, in the moment in which it ends."""
    state._controls.done.add_callback(call)


def leftovers(flow: Flow, states: Iterable[JobState]) -> Iterator[str]:
    """Look for what a flow without jobs must not have: waiting work, permits held, timers."""
    hub, states = flow._hub, list(states)
    with hub.lock:
        if hub.runs:
            yield f"{len(hub.runs)} jobs still run"
        if len(hub.timers):
            yield f"{len(hub.timers)} timers left"
        for queue in hub.queues:
            if queue.ready or queue.first:
                yield f"queue {queue.strategy.name!r}: {len(queue.ready)} ready, {len(queue.first)} with permits"
        twins = [twin for state in states for twin in state._controls.own.values()]
        for node in [*hub.nodes.values(), *twins]:
            if node.waiting:
                yield f"{node.routine_id}: {len(node.waiting)} wait for a permit"
            if node.free != node.limit:
                yield f"{node.routine_id}: {node.free} permits of {node.limit} are free"
        for state in states:
            run = state._controls
            kept = {name: len(getattr(run, name)) for name in ("retrying", "parked", "parked_retries")}
            if state.status != "cancelled":  # else retries were discarded, and their attempts are records
                kept["attempts"] = len(run.attempts)
            if any(kept.values()):
                yield f"{state.job_id} keeps {kept}"


def idle_pools(flow: Flow) -> Iterator[str]:
    """Look for workers that are still counted after shutdown."""
    for queue in flow._hub.queues:
        if queue.active or queue.recruiting:
            yield f"queue {queue.strategy.name!r}: {queue.active} workers active, recruiting: {queue.recruiting}"


# -- what the check of the check leaves behind, one at a time, to see it noticed


def hold_a_permit(flow: Flow) -> None:
    next(iter(flow._hub.nodes.values())).free -= 1


def leave_one_waiting(flow: Flow) -> None:
    next(iter(flow._hub.nodes.values())).waiting.append(None)


def leave_one_ready(flow: Flow) -> None:
    flow._hub.queues[0].ready.append(None)


def leave_a_job(flow: Flow) -> None:
    flow._hub.runs.add(object())


def leave_a_timer(flow: Flow) -> Callable[[], None]:
    """Leave one, and return what takes it back: its thread would stay."""
    hub = flow._hub
    with hub.lock:
        timer = hub.timers.add(3600.0, lambda: None)

    def take_back() -> None:
        with hub.lock:
            timer.cancel()
            hub.timers.wake()

    return take_back
