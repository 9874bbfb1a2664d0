"""The cases about jobs: completion, cancel, pause, many of them, and the shutting down of flows."""

from __future__ import annotations

from routilux_core.flow import Flow
from routilux_core.testing._bench import Bench, case
from routilux_core.testing._board import until
from routilux_core.testing._patient import Gated
from routilux_core.testing._routines import Forward, Source, Total

CALLS = 60
SHIPPED_AHEAD = 2  # tasks for each worker that may have been handed over, and not begun


class JobCases:
    """The promises about the life of a job."""

    @case
    def test_completed_means_that_everything_has_run(self, bench: Bench) -> None:
        flow = self._gated(bench)
        bench.open_gate()
        for round_ in range(1, 11):
            job = bench.finished(flow.execute("source", {"count": 10}))
            entered, left = len(bench.notes("entered")), len(bench.notes("left"))
            assert (entered, left) == (10 * round_, 10 * round_), "the job has ended, and handlers have not"
            assert job.ledger.pending == 0
            assert len(job.outputs["gated.out"]) == 10, "the job has ended, and emissions have not arrived"

    @case
    def test_many_jobs_at_once_keep_apart(self, bench: Bench) -> None:
        flow = bench.flow({"source": Source(), "forward": Forward()}, "source.out forward.n")
        found: dict[int, list[int]] = {}

        def run_some(number: int) -> None:
            numbers = range(number, 40, 4)
            jobs = {n: flow.execute("source", {"count": n % 7 + 1, "first": 100 * n}) for n in numbers}
            for n, job in jobs.items():
                bench.finished(job)
                found[n] = sorted(output["n"] for output in job.outputs["forward.out"])

        for thread in [bench.in_background(run_some, number) for number in range(4)]:
            thread.ended()
        assert found == {n: list(range(100 * n, 100 * n + n % 7 + 1)) for n in range(40)}

    @case
    def test_jobs_one_after_the_other_all_end(self, bench: Bench) -> None:
        total = Total()
        flow = bench.flow({"source": Source(), "total": total}, "source.out total.n")
        for _ in range(50):
            bench.finished(flow.execute("source", {"count": 3}))
        assert total.count == 150

    @case
    def test_cancel_discards_what_has_not_begun(self, bench: Bench) -> None:
        flow = self._gated(bench)
        thread = bench.in_background(flow.execute, "source", {"count": CALLS})
        assert bench.noted("entered", 1), "no call was made"
        job, begun = flow.job_state, len(bench.notes("entered"))
        assert job is not None
        job.cancel()
        bench.open_gate()
        assert bench.ended(job), f"the job was cancelled, and does not end: {job.explain()}"
        thread.ended()
        assert job.status == "cancelled"
        assert job.ledger.balanced
        assert job.ledger.pending == 0
        flow.shutdown(timeout=bench.patience)
        entered = len(bench.notes("entered"))
        assert entered <= begun + self._ahead(bench), f"{begun} calls were made, then cancel, and then {entered}"
        assert entered == len(bench.notes("left")), "a running handler did not end by itself"

    @case
    def test_a_paused_job_starts_nothing_and_goes_on_when_resumed(self, bench: Bench) -> None:
        flow = self._gated(bench)
        thread = bench.in_background(flow.execute, "source", {"count": CALLS})
        assert bench.noted("entered", 1), "no call was made"
        job, begun = flow.job_state, len(bench.notes("entered"))
        assert job is not None
        job.pause()
        bench.open_gate()
        assert until(lambda: len(bench.notes("left")) >= begun, bench.patience), "a running handler did not end"
        entered = len(bench.notes("entered"))
        assert entered <= begun + self._ahead(bench), f"{begun} calls were made, then pause, and then {entered}"
        assert job.status == "paused"
        assert job.ledger.balanced
        assert job.ledger.pending > 0
        job.resume()
        bench.finished(job)
        thread.ended()
        assert sorted(output["n"] for output in job.outputs["gated.out"]) == list(range(CALLS))

    def _gated(self, bench: Bench) -> Flow:
        gated = bench.patient(Gated, bench.patience)
        return bench.flow({"source": Source(), "gated": gated}, "source.out gated.n")

    def _ahead(self, bench: Bench) -> int:
        """Return how many calls may still begin: what a worker, or a pipe to one, had in hand."""
        return bench.workers * (1 if bench.capabilities.shares_memory else SHIPPED_AHEAD)

    @case
    def test_a_flow_is_shut_down_twice_and_used_again(self, bench: Bench) -> None:
        flow = bench.flow({"source": Source(), "forward": Forward()}, "source.out forward.n")
        for _ in range(3):
            job = bench.finished(flow.execute("source", {"count": 5}))
            assert len(job.outputs["forward.out"]) == 5
            flow.shutdown()
            flow.shutdown()

    @case
    def test_shutdown_waits_for_what_runs(self, bench: Bench) -> None:
        flow = self._gated(bench)
        bench.open_gate()
        job = flow.execute("source", {"count": CALLS})
        flow.shutdown()
        assert job.status == "completed"
        assert len(bench.notes("left")) == CALLS

    @case
    def test_two_flows_do_not_disturb_each_other(self, bench: Bench) -> None:
        gated = self._gated(bench)
        thread = bench.in_background(gated.execute, "source", {"count": 3})
        assert bench.noted("entered", 1), "no call was made"
        with bench.flow({"source": Source(), "forward": Forward()}, "source.out forward.n") as other:
            bench.finished(other.execute("source", {"count": 5}))
        bench.open_gate()
        thread.ended()
        assert gated.wait_for_completion(bench.patience)
        job = gated.job_state
        assert job is not None
        assert job.status == "completed", "shutting one flow down has disturbed another"
