"""The commands about journals: `routilux jobs`, `routilux resume` and `routilux prune`."""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from routilux_core._text.printable import printable
from routilux_core.cli.flows import Refused, find_flow, guarded, imported
from routilux_core.flow import Flow
from routilux_core.journal import InDoubt, Journal, Key

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def add_commands(subparsers: Any) -> None:
    """Add the commands of this module."""
    jobs = subparsers.add_parser("jobs", help="list the jobs in a journal")
    resume = subparsers.add_parser("resume", help="go on with the jobs in a journal that have not ended, or with one")
    prune = subparsers.add_parser("prune", help="delete jobs that have ended from a journal")
    for each in (jobs, resume, prune):
        each.add_argument("journal", metavar="FILE", help="the file that Flow(journal=...) names")
    jobs.add_argument("--json", action="store_true", help="print them as JSON")
    jobs.add_argument(
        "--status", metavar="STATUS", help="only those with this status; 'unfinished' are all that have not ended"
    )
    resume.add_argument("job", nargs="?", metavar="JOB", help="the id of one job")
    resume.add_argument("--retry-failed", action="store_true", help="do again what has failed or was discarded, too")
    resume.add_argument(
        "--flow", metavar="FLOW", help="module:name of the flow, with its journal; by default it is read from the file"
    )
    resume.add_argument(
        "--types", action="append", default=[], metavar="MODULE", help="import this module for the classes of the flow"
    )
    prune.add_argument(
        "--older-than", type=_age, required=True, metavar="AGE", help="that ended so long ago: 30d, 12h, 90m or 10s"
    )
    jobs.set_defaults(run=guarded(_jobs))
    resume.set_defaults(run=guarded(_resume))
    prune.set_defaults(run=guarded(_prune))


def _age(text: str) -> float:
    found = re.fullmatch(r"(\d+)([smhd])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no age: write 30d, 12h, 90m or 10s")
    return float(int(found[1]) * UNITS[found[2]])


@contextmanager
def _opened(path: str) -> Iterator[Journal]:
    """Open a journal, and leave it as it was; one that is not there is not made."""
    from routilux_core._journal.sqlite import SqliteJournal

    try:
        open(path, "rb").close()
    except FileNotFoundError:
        raise Refused(f"{path!r}: there is no such file") from None
    journal = SqliteJournal(path)
    journal.open(True)
    try:
        yield journal
    finally:
        journal.close(in_doubt=journal.marks() != [])


def _saved(journal: Journal) -> dict[str, Any]:
    from routilux_core._journal.recovery import SavedJob, rows_by_owner
    from routilux_core._journal.texts import Reading

    reading = Reading((), journal.where)
    rows = rows_by_owner(journal.read())
    rows.pop("", None)
    found = [SavedJob(owner, mine, reading) for owner, mine in rows.items()]
    return {job.job_id: job for job in sorted(found, key=lambda job: job.line.began_at)}


def _facts(job: Any) -> dict[str, Any]:
    line = job.line
    stopping = "running" if line.status not in ("running", "paused") and not job.has_ended else line.status
    return {
        "job_id": job.job_id,
        "flow_id": line.flow_id,
        "status": stopping,
        "ended": job.has_ended,
        "started_at": line.began_at,
        "posted": line.posted,
        "pending": line.posted - line.over,
        "failed": line.failed,
        "discarded": line.discarded,
    }


def _jobs(options: argparse.Namespace) -> int:
    with _opened(options.journal) as journal:
        found = [_facts(job) for job in _saved(journal).values()]
    wanted = options.status
    if wanted is not None:
        found = [each for each in found if each["status"] == wanted or (wanted == "unfinished" and not each["ended"])]
    if options.json:
        print(json.dumps(found, indent=2))
        return 0
    for each in found:
        began = datetime.fromtimestamp(each["started_at"], UTC).strftime("%Y-%m-%d %H:%M:%S")
        left = f"{each['pending']} of {each['posted']} activations pending"
        again = each["failed"] + each["discarded"]
        print(printable(f"{each['job_id']}  {each['flow_id']}  {each['status']}  {began} UTC  {left}"), end="")
        print(f", {again} failed or discarded" if again else "")
    return 0


def _resume(options: argparse.Namespace) -> int:
    if options.flow is not None:
        flow = find_flow(options.flow, options.types)
    else:
        flow = _read_flow(options.journal, options.job, [imported(each) for each in options.types])
    with flow:
        jobs = flow.recover(options.job, retry_failed=options.retry_failed)
        for job in jobs:
            job.resume()
            job.wait()
            print(printable(f"{job.job_id}: {job.status}"))
            for call in job.in_doubt:
                print(
                    printable(f"  was in doubt, and {_fate_of(flow, call)}: {call.routine_id}.{call.slot} {call.key}")
                )
    if not jobs:
        print("there is nothing to go on with")
    return 0 if all(job.status == "completed" for job in jobs) else 1


def _fate_of(flow: Flow, call: InDoubt) -> str:
    failed = flow.routines[call.routine_id].__routilux_settings__.on_crash == "fail"
    return "failed for that" if failed else "made again"


def _read_flow(path: str, job_id: str | None, types: list[Any]) -> Flow:
    """Return the flow that the file has, of one job or of all."""
    with _opened(path) as journal:
        jobs = _saved(journal)
        flows = {job.line.flow_id for name, job in jobs.items() if job_id in (None, name)}
        documents = {key.owner: text for key, text in journal.read(kind="document")}
    if not flows:
        what = "has no jobs" if job_id is None else f"has no job {job_id!r}: `routilux jobs` lists them"
        raise Refused(f"{path!r} {what}")
    if len(flows) > 1:
        raise Refused(f"{path!r} has jobs of several flows ({', '.join(sorted(flows))}): say which job")
    [flow_id] = flows
    if flow_id not in documents:
        raise Refused(f"flow {flow_id!r} can't be saved, so it is not in {path!r}: give it with --flow module:name")
    flow = Flow(flow_id, journal=path)
    flow.deserialize(json.loads(documents[flow_id]), types=types)
    return flow


def _prune(options: argparse.Namespace) -> int:
    before = time.time() - options.older_than
    with _opened(options.journal) as journal:
        jobs = _saved(journal)
        gone = [name for name, job in jobs.items() if _ended_at(job) < before]
        rows: dict[Key, str | None] = {Key(name, kind): None for name in gone for kind in ("job", "record")}
        if gone:
            journal.commit({**rows, Key("", "jobs"): str(len(jobs) - len(gone))}, gone)
    print(f"{len(gone)} of {len(jobs)} jobs deleted")
    return 0


def _ended_at(job: Any) -> float:
    """Return when a job has ended; never, where it has not."""
    for text in job.kinds["record"].values():
        record = json.loads(text)
        return float(record.get("ended_at") or record.get("started_at") or 0.0)
    return float("inf")
