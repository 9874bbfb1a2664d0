"""JournalSuite: what a flow relies on, tested against one kind of journal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from routilux_core import Flow, JournalError, Routine, event, slot
from routilux_core.journal import KEPT, Journal, Key, Mark


class Stops(Routine, stateless=True):
    """Sends a number on, and stops the program at one, the first time."""

    stops: bool = False
    out = event("n")
    has_stopped = False

    @slot
    def work(self, n: int) -> None:
        if n == 3 and self.stops and not Stops.has_stopped:
            Stops.has_stopped = True
            raise KeyboardInterrupt
        self.emit("out", n=n)


class Counts(Routine):
    """Counts to a number, and adds up what comes back."""

    total: int = 0
    number = event("n")

    @slot
    def begin(self, count: int) -> None:
        for n in range(count):
            self.emit("number", n=n)

    @slot
    def add(self, n: int) -> None:
        self.total += n


class JournalSuite:
    """The kit for journals. Subclass it in a test module, and say how one is made::

        class TestMyJournal(JournalSuite):
            @pytest.fixture
            def make_journal(self, tmp_path):
                return lambda: MyJournal(tmp_path / "jobs")

    Each call makes another object for the same rows, as another process would.
    """

    @pytest.fixture
    def make_journal(self) -> Callable[[], Journal]:
        """What makes a journal; a subclass gives it."""
        pytest.fail(f"{type(self).__name__} needs a fixture `make_journal`: a function that returns a Journal")

    @pytest.fixture
    def journal(self, make_journal: Callable[[], Journal]) -> Iterator[Journal]:
        """A journal that is open."""
        journal = make_journal()
        journal.open(True)
        yield journal
        journal.close()

    def test_rows_come_back_in_the_order_of_their_keys(self, journal: Journal) -> None:
        rows: dict[Key, str | None] = {
            Key("b", "activation", 2): "two",
            Key("b", "activation", 10): "ten",
            Key("a", "output", 1, "x"): "",
            Key("a", "job"): '{"é": "\\n\N{SNOWMAN}"}',
        }
        journal.commit(rows)
        assert list(journal.read()) == sorted(rows.items())
        assert [key.number for key, _ in journal.read("b")] == [2, 10]
        assert [key for key, _ in journal.read(kind="output")] == [Key("a", "output", 1, "x")]
        assert list(journal.read("b", "job")) == []

    def test_a_row_takes_the_place_of_the_one_with_its_key(self, journal: Journal) -> None:
        key = Key("a", "state", 0, "fetch")
        journal.commit({key: "old"})
        journal.commit({key: "new", Key("a", "job"): "1"})
        assert list(journal.read("a", "state")) == [(key, "new")]
        journal.commit({key: None, Key("a", "none"): None})
        assert list(journal.read("a", "state")) == []

    def test_of_a_job_that_has_ended_its_record_is_left(self, journal: Journal) -> None:
        kinds = (*KEPT, "activation", "output")
        journal.commit({Key(owner, kind): kind for owner in ("a", "b") for kind in kinds})
        journal.commit({Key("a", "record"): "new"}, ["a"])
        assert {key.kind for key, _ in journal.read("a")} == {*KEPT}
        assert {key.kind for key, _ in journal.read("b")} == {*kinds}

    def test_rows_are_there_when_it_is_opened_again(self, make_journal: Callable[[], Journal]) -> None:
        large = "x" * 3_000_000
        for index in range(3):
            journal = make_journal()
            journal.open(index == 0)
            assert len(list(journal.read())) == index
            journal.commit({Key("a", "output", index): large})
            journal.close()
            journal.close()

    def test_a_second_opener_is_refused(self, make_journal: Callable[[], Journal]) -> None:
        first, second = make_journal(), make_journal()
        first.open(True)
        try:
            with pytest.raises(JournalError):
                second.open(True)
        finally:
            first.close()
        second.open(True)
        second.close()

    def test_a_closed_journal_writes_nothing(self, make_journal: Callable[[], Journal]) -> None:
        journal = make_journal()
        journal.open(True)
        journal.close()
        with pytest.raises(JournalError):
            journal.commit({Key("a", "job"): "1"})

    def test_marks_are_left_where_calls_are_in_doubt(self, make_journal: Callable[[], Journal]) -> None:
        journal = make_journal()
        journal.open(True)
        assert journal.marks() in (None, [])
        for number in range(5):
            journal.mark(number % 2, Mark(7, number, 1))
        journal.close(in_doubt=True)
        for _ in range(2):  # and stay, where nobody has made those calls again
            journal = make_journal()
            journal.open(True)
            found = journal.marks()
            assert found is None or set(found) >= {Mark(7, 3, 1), Mark(7, 4, 1)}
            journal.close(in_doubt=True)

    @pytest.mark.parametrize("durability", ["sync", "async"])
    @pytest.mark.parametrize("strategy", ["sequential", "concurrent", "asyncio", "process"])
    def test_a_job_goes_on_with_what_is_left(
        self, make_journal: Callable[[], Journal], strategy: str, durability: str
    ) -> None:
        def make() -> Flow:
            workers = 1 if strategy == "process" else None  # each takes its time to start
            flow = Flow("kit", strategy, workers, journal=make_journal(), durability=durability)
            flow.add_routine(Counts(), "counts")
            # Elsewhere a Ctrl-C is a failure like another: there the job is paused instead.
            flow.add_routine(Stops(stops=strategy == "sequential"), "stops")
            flow.connect("counts", "number", "stops", "work")
            flow.connect("stops", "out", "counts", "add")
            flow.add_output("stops", "out")
            return flow

        Stops.has_stopped = False
        try:
            with make() as flow:
                job = flow.execute("counts", {"count": 6}, slot="begin", job_id="one")
                job.pause()
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        with make() as flow:
            for job in flow.recover():
                job.resume()
            job = flow.execute("counts", {"count": 6}, slot="begin", job_id="one")
            assert job.wait(30)
            assert job.status == "completed"
            assert sorted(each["n"] for each in job.outputs["stops.out"]) == list(range(6))
        with make() as flow:
            again: Any = flow.execute("counts", {"count": 6}, slot="begin", job_id="one")
            assert again.status == "completed"
            assert flow.recover() == []
