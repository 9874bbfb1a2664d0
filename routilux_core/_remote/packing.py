"""A claim as an envelope: merged, pickled in one go where that can be, and whatever can't be sent found out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, groupby, islice
from operator import itemgetter
from pickle import PickleBuffer

from routilux_core._engine.plan import GATHERED, INLET, JOB, NUMBER, PAYLOAD, Item, Node
from routilux_core._engine.run import Run
from routilux_core._remote.batching import BULKY
from routilux_core._remote.claim import Claim
from routilux_core._remote.envelopes import Envelope, PartStore, Row, crate, travels
from routilux_core._remote.losses import retries_losses
from routilux_core._remote.pickling import APART, ATOMS, dumps_plain, is_plain, size_of
from routilux_core._remote.wire import NOT, UNTIL_END, UNTIL_SUCCESS, Activations, Data, Label
from routilux_core._routines.signature import Payload
from routilux_core.error_handling import Decision, ErrorHandler, ErrorStrategy
from routilux_core.errors import ShippingError, is_interrupt

Packed = Envelope | Decision | BaseException | None


def pack(label: Label, claim: Claim, parts: PartStore) -> Packed:
    """Return a claim as it travels, or why its first activation can't, or is not to; None if it was given up meanwhile.

    Plugins are asked here, since nobody else can keep a call from being made that has been sent.
    """
    try:
        if claim.run.admit is not None and (decision := claim.run.admit(claim.items[0], 0)) is not None:
            return decision
        with parts.packing():
            return _pack_at_once(label, claim, parts) or _pack_one_by_one(label, claim, parts)
    except BaseException as error:
        if is_interrupt(error):
            raise
        return error


def _pack_at_once(label: Label, claim: Claim, parts: PartStore) -> Envelope | None:
    """Pickle many calls in one go, which goes where their payloads are plain, as they come."""
    run = claim.run
    if len(claim.items) == 1 or run.told_in_detail() or run.ledger.payloads is not None:
        return None
    # What is not plain, or not made yet, may raise: one by one it is only that call which fails.
    if run.own and any(item[INLET].node.unmade for item in claim.items):
        return None  # a copy for the job may fail, which is the failure of one call
    payloads = _apart_from_each_other([item[PAYLOAD] for item in claim.items])
    if payloads is None:
        return None
    each = iter(payloads)
    rows: list[Row] = [
        (inlet, list(islice(each, len(list(same))))) for inlet, same in groupby(claim.items, itemgetter(0))
    ]
    try:
        return _crated(label, claim, parts, rows)
    except BaseException as error:  # one by one it is found out which
        if is_interrupt(error):
            raise
        return None


def _apart_from_each_other(payloads: Sequence[Payload]) -> Sequence[Data] | None:
    """Return payloads as they can be pickled in one go; None if one is not plain, or large.

    One with a list in it is pickled by itself: what two calls have in common would be one object in the worker, and
    each is to have its own, whatever the batch.
    """
    if ATOMS.issuperset(map(type, chain.from_iterable(map(dict.values, payloads)))):
        return payloads
    made: list[Data] = []
    apart: list[PickleBuffer] = []
    for payload in payloads:
        if is_plain(payload):
            made.append(payload)
            continue
        data = dumps_plain(payload, apart)
        if data is None or apart or len(data) >= APART:
            return None
        made.append(data)
    return made


def _pack_one_by_one(label: Label, claim: Claim, parts: PartStore) -> Envelope | BaseException | None:
    rows: list[Row] = []
    payloads: list[Payload] = []
    weight = 0
    for index, item in enumerate(claim.items):
        try:
            parts.part(item[INLET].node)
            payloads.append(_payload(item))
            data = parts.packed(item[INLET], payloads[-1], _follows(claim, index, payloads[-1]))
            rows.append((item[INLET], [data]))
        except BaseException as error:  # of a merge function, or of a payload's own
            if is_interrupt(error):
                raise
            if index == 0:
                return error
            claim.put_back(index)  # it is the first of the next task, and fails then
            break
        weight += 0 if isinstance(data, dict) else size_of(data)
        if weight >= BULKY and index + 1 < len(claim.items):
            claim.put_back(index + 1)  # a worker holds a whole batch, and so do we
            break
    # Its pool may have been lost meanwhile: then all of it was put back or failed, and is no longer this task's.
    made = None if claim.ended else _crated(label, claim, parts, rows)
    if made is None and not claim.ended:
        # It is plain by now. What a signal handler has raised in there was taken for a payload that is not.
        made = _crated(label, claim, parts, rows)
        if made is None:
            return ShippingError(f"the calls of task {label.task} could not be pickled")
    if made is not None and (kept := claim.run.ledger.payloads) is not None:
        for item, payload in zip(claim.items, payloads, strict=False):
            kept.begin(item[NUMBER], payload)
    if made is not None and (listeners := claim.run.told_in_detail()):
        for item, payload in zip(claim.items, payloads, strict=False):
            attempt = claim.run.retries.attempt(item[NUMBER])
            listeners.activation_started(item[INLET], item[NUMBER], attempt, item, payload, worker=0)
    return made


def _follows(claim: Claim, index: int, payload: Payload) -> bool:
    """Return whether the next call is given the same emission: it is connected to several slots."""
    if index + 1 < len(claim.items):
        return claim.items[index + 1][PAYLOAD] is payload
    ready = claim.owner.ready
    try:  # without the lock: whoever takes it meanwhile pickles for himself
        following = ready.first[0] if ready.first else ready.queue[0]
    except IndexError:
        return False
    return following[PAYLOAD] is payload


def _crated(label: Label, claim: Claim, parts: PartStore, rows: list[Row]) -> Envelope | None:
    run = claim.run
    whole, carrier = run.job_id in parts.whole, parts.carriers.of(run)
    numbers = [item[NUMBER] for item in claim.items]
    attempts = run.retries.attempts  # without the lock: while one of these is away, nobody changes its own
    again = {number: attempts[number] for number in numbers if number in attempts} if attempts else {}
    activations = Activations(run.job_id, numbers, again)
    return crate(label, parts, rows, activations, holds, lambda node: goes_on(run, node), whole, carrier)


def _payload(item: Item) -> Payload:
    """Return what the handler is given, gathered or merged. The routine's permit is held."""
    inlet, payload, _, number, _, _ = item
    run: Run = item[JOB]
    if inlet.gathers:
        return inlet.collect(payload[GATHERED])
    if inlet.merge is not None:
        return run.slots.merge(inlet, payload, number, run.retries, True)
    return payload


def holds(node: Node) -> int:
    """Return for how long what an activation emits is held back, since it may run again."""
    if node.holds:
        return UNTIL_SUCCESS
    return UNTIL_END if retries_losses(node) else NOT


def goes_on(run: Run, node: Node) -> bool:
    """Whether calls behind one that fails may be made before it is decided about: nothing can keep them from it.

    What may stop the job keeps them, and so does another attempt where order holds.
    """
    policy = node.policy
    if type(policy) is not ErrorHandler or run.decide is not None:
        return False
    if policy.strategy is ErrorStrategy.RETRY:
        return policy.after_retries is not ErrorStrategy.STOP and not travels(node)
    return policy.strategy is not ErrorStrategy.STOP
