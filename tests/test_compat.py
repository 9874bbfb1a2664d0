"""A program in the style of Routilux 0.8 runs with its import changed, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from routilux_core import compat
from routilux_core.compat import ErrorHandler, ErrorStrategy, Flow, Routine, Slot

pytestmark = pytest.mark.filterwarnings("ignore:.*is a name of Routilux 0.8:DeprecationWarning")


class Trigger(Routine):
    def __init__(self):
        super().__init__()
        self.output_event = self.define_event("go", ["subject"])

    def __call__(self, subject="weather", **kwargs):
        super().__call__(**kwargs)
        flow = getattr(self, "_current_flow", None)
        self.emit("go", flow=flow, subject=subject)


class Fetcher(Routine):
    def __init__(self):
        super().__init__()
        self.add_serializable_fields(["fetched"])
        self.set_config(name="none", delay=0.0, fails=False)
        self.fetched = 0
        self.trigger_slot = self.define_slot("trigger", handler=self.fetch)
        self.output_event = self.define_event("output", ["data", "source"])

    def fetch(self, subject=None, **kwargs):
        time.sleep(self.get_config("delay"))
        if self.get_config("fails"):
            raise ValueError(f"{self.get_config('name')} is down")
        self.fetched += 1
        self._stats["fetched"] = self._stats.get("fetched", 0) + 1
        self.emit(
            "output",
            flow=self._current_flow,
            data=f"{subject} of {self.get_config('name')}",
            source=self.config()["name"],
        )


class Processor(Routine):
    def __init__(self):
        super().__init__()
        self.input_slot = self.define_slot("input", handler=self.process)
        self.output_event = self.define_event("output", ["result"])

    def process(self, data=None, **kwargs):
        data = self._extract_input_data(data, **kwargs)
        self._track_operation("processing", success=True, length=len(data))
        self.emit("output", flow=getattr(self, "_current_flow", None), result=data.upper())


class Aggregator(Routine):
    def __init__(self):
        super().__init__()
        self.results = []
        self.input_slot = self.define_slot("input", handler=self.add, merge_strategy="append")

    def add(self, result):
        self.results.append(result[-1])
        self.increment_stat("added")


NAMES = ("api", "database", "file")
ALL = ["RAIN OF API", "RAIN OF DATABASE", "RAIN OF FILE"]


def make_demo(strategy: str) -> Flow:
    flow = Flow(flow_id="demo", execution_strategy=strategy)
    flow.add_routine(Trigger(), "trigger")
    flow.add_routine(Aggregator(), "aggregator")
    for name in NAMES:
        fetcher = Fetcher()
        fetcher.set_config(name=name)
        flow.add_routine(fetcher, f"fetch_{name}")
        flow.add_routine(Processor(), f"process_{name}")
        flow.connect("trigger", "go", f"fetch_{name}", "trigger")
        flow.connect(f"fetch_{name}", "output", f"process_{name}", "input")
        flow.connect(
            source_routine_id=f"process_{name}",
            source_event="output",
            target_routine_id="aggregator",
            target_slot="input",
        )
    return flow


@pytest.fixture(params=["sequential", "concurrent"])
def flow(request: pytest.FixtureRequest) -> Iterator[Flow]:
    made = make_demo(request.param)
    try:
        yield made
    finally:
        made.shutdown(wait=True)


def run(flow: Flow) -> list[str]:
    job = flow.execute("trigger", entry_params={"subject": "rain"})
    assert flow.wait_for_completion(timeout=30.0)
    assert job.status == "completed"
    found: Any = flow.routines["aggregator"]
    return sorted(found.results)


def test_the_main_job_and_what_its_routines_counted(flow: Flow) -> None:
    assert flow.max_workers == 5
    assert run(flow) == ALL
    assert flow.job_state is not None
    state = flow.job_state.get_routine_state("trigger")
    assert (state["status"], "error" in state) == ("completed", False)
    assert state["execution_time"] > 0.0
    assert flow.job_state.get_routine_state("nothing") is None
    stats = flow.routines["process_api"].stats()
    assert (stats["total_processing"], stats["successful_processing"]) == (1, 1)
    assert stats["processing_history"] == [{"length": len("rain of api")}]
    assert stats["emitted_events"] == [{"event": "output", "data": {"result": "RAIN OF API"}}]
    assert flow.routines["trigger"].stats()["call_count"] == 1
    assert flow.execution_tracker.get_flow_performance()["total_executions"] == 10
    assert flow.job_state.execution_history[0].routine_id == "trigger"


def test_an_error_in_one_routine_does_not_block_others(flow: Flow) -> None:
    flow.set_error_handler(ErrorHandler(strategy=ErrorStrategy.CONTINUE, is_critical=True))
    flow.routines["fetch_database"].set_config(fails=True)  # type: ignore[attr-defined]
    assert run(flow) == [ALL[0], ALL[2]]
    assert flow.job_state is not None
    state = flow.job_state.get_routine_state("fetch_database")
    assert (state["status"], state["error"]) == ("error_continued", "database is down")


def test_a_saved_flow_gives_the_same_result(flow: Flow) -> None:
    new_flow = Flow()
    new_flow.deserialize(flow.serialize())
    assert (new_flow.execution_strategy, new_flow.max_workers) == (flow.execution_strategy, 5)
    try:
        assert run(new_flow) == ALL
    finally:
        new_flow.shutdown()


def test_the_strategy_is_switched(flow: Flow) -> None:
    for strategy in ("sequential", "concurrent", "sequential"):
        flow.set_execution_strategy(strategy)
        flow.routines["aggregator"].results.clear()  # type: ignore[attr-defined]
        assert run(flow) == ALL
    job = flow.execute("trigger", {"subject": "rain"}, execution_strategy="concurrent")
    assert flow.wait_for_completion(30.0)
    assert (job.status, flow.execution_strategy) == ("completed", "concurrent")


def test_the_flow_is_known_inside_a_handler_alone() -> None:
    seen = []

    class Looks(Routine):
        def __call__(self):
            seen.append(self._current_flow)

    flow, looks = Flow(), Looks()
    flow.add_routine(looks, "looks")
    flow.execute("looks")
    assert seen == [flow]
    assert looks._current_flow is None


def test_counters_configuration_and_slots_without_a_flow() -> None:
    routine = Processor()
    routine.set_stat("a", 1)
    assert (routine.get_stat("a"), routine.get_stat("b", 7), routine.increment_stat("a", 2)) == (1, 7, 3)
    routine.reset_stats([])
    assert routine.stats() == {"a": 3}
    routine.reset_stats()
    assert routine.stats() == {}
    assert int(routine._id, 16) == id(routine)
    aggregator = Aggregator()
    assert isinstance(aggregator.input_slot, Slot)
    aggregator.input_slot.receive({"result": [1, 2]})
    assert aggregator.results == [2]


def test_a_lone_parameter_called_data_gets_everything_and_a_slot_needs_no_handler() -> None:
    class Takes(Routine):
        def __init__(self):
            super().__init__()
            self.seen = []
            self.define_slot("whole", handler=self.take)
            self.define_slot("counts")

        def take(self, data):
            self.seen.append(data)

    flow, takes = Flow(), Takes()
    flow.add_routine(Trigger(), "trigger")
    flow.add_routine(takes, "takes")
    flow.connect("trigger", "go", "takes", "whole")
    flow.connect("trigger", "go", "takes", "counts")
    job = flow.execute("trigger", {"subject": "snow"})
    assert (takes.seen, job.ledger.completed) == ([{"subject": "snow"}], 3)


def test_each_old_name_says_what_to_write_instead() -> None:
    with pytest.warns(DeprecationWarning, match=r"set_config is a name of Routilux 0.8: declare fields"):
        Fetcher()
    assert set(compat.__all__) <= set(dir(compat))
