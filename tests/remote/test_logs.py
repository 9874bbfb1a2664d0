"""What a handler logs in a worker process is logged once, at home, and nothing is dropped in silence."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quickest import OPTIONS, keywords
from routilux_core import Flow, JobState
from routilux_core._remote.logs import MOST, Relay, environment
from routilux_core_plugins.process import ProcessStrategy
from shipped.endings import LogsMany
from shipped.losing import Collects

MakeFlow = Callable[..., Flow]
SECONDS = 30.0


def finished(job: JobState) -> JobState:
    assert job.wait(SECONDS), job.explain()
    assert job.status == "completed", job.errors
    return job


SCRIPT = """
    import logging
    logging.basicConfig(filename="app.log", level=logging.INFO)
    log = logging.getLogger("app")
    from routilux_core import Flow, Routine, slot

    class Work(Routine, stateless=True):
        @slot
        def go(self, x):
            log.info("record %s", x)

    if __name__ == "__main__":
        with Flow(execution_strategy="process", max_workers=1) as flow:
            flow.add_routine(Work(), "work")
            for x in range(3):
                flow.run("work", {"x": x})
"""


def test_a_script_that_sets_logging_up_at_its_top_logs_each_record_once(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = (tmp_path / "app.log").read_text().splitlines()
    assert [line for line in lines if "record" in line] == [f"INFO:app:record {n}" for n in range(3)]


MODULE = """
    import logging, os
    from routilux_core import Routine, slot

    FOLDER = {folder!r}

    def handler(name):
        made = logging.FileHandler(os.path.join(FOLDER, name))
        made.setFormatter(logging.Formatter("%(message)s"))
        return made

    logging.getLogger("module.log").addHandler(handler("module"))
    logging.getLogger("module.alone").addHandler(handler("alone"))
    logging.getLogger("module.alone").propagate = False

    class Says(Routine, stateless=True):
        @slot
        def n(self, n):
            if n == 0:
                logging.getLogger("module.log").addHandler(handler("call"))
            logging.getLogger("module.log.inner").warning("said %s", n)
            logging.getLogger("module.alone").warning("alone %s", n)
"""


def test_handlers_of_an_imported_module_handle_each_record_once_and_those_of_a_call_too(
    make_flow: MakeFlow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "module_that_logs.py").write_text(textwrap.dedent(MODULE).format(folder=str(tmp_path)))
    monkeypatch.syspath_prepend(str(tmp_path))
    import module_that_logs  # type: ignore[import-not-found]

    flow = make_flow(execution_strategy=ProcessStrategy(max_workers=1, **OPTIONS))
    flow.add_routine(module_that_logs.Says(), "says")
    for n in range(3):
        finished(flow.execute("says", {"n": n}))
    said = [f"said {n}" for n in range(3)]
    assert (tmp_path / "module").read_text().splitlines() == said  # here alone: there it is muted
    assert (tmp_path / "call").read_text().splitlines() == said  # there alone, where a call has asked for it
    assert (tmp_path / "alone").read_text().splitlines() == [f"alone {n}" for n in range(3)]  # there: it goes nowhere
    for name in ("module.log", "module.alone"):
        for each in logging.getLogger(name).handlers[:]:
            logging.getLogger(name).removeHandler(each)
            each.close()
    del sys.modules["module_that_logs"]


def test_what_is_dropped_is_told(make_flow: MakeFlow, caplog: pytest.LogCaptureFixture) -> None:
    flow = make_flow(execution_strategy=ProcessStrategy(max_workers=1, **OPTIONS))
    flow.add_routine(LogsMany(), "logs")
    finished(flow.execute("logs", {"n": MOST + 7}))
    told = [record.getMessage() for record in caplog.records if record.name == "routilux_core"]
    arrived = [record for record in caplog.records if record.name == "shipped.many"]
    assert len(arrived) == MOST
    assert len(told) == 1
    assert told[0].startswith("7 log records and warnings of worker process ")
    caplog.clear()
    finished(flow.execute("logs", {"n": 3}))
    assert len(caplog.records) == 3


def test_loggers_may_be_made_while_the_levels_are_read() -> None:
    over, errors = threading.Event(), []

    def make_loggers() -> None:
        for number in range(2_000):
            logging.getLogger(f"shipped.made.{number}")
        over.set()

    maker = threading.Thread(target=make_loggers)
    maker.start()
    while not over.is_set():
        try:
            environment()
        except RuntimeError as error:
            errors.append(error)
    maker.join()
    for number in range(2_000):
        logging.root.manager.loggerDict.pop(f"shipped.made.{number}", None)
    assert errors == []


class Keeps(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


@pytest.fixture
def own_handler() -> Any:
    handler, logger = Keeps(), logging.getLogger("shipped.relay")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def test_a_process_that_works_for_nobody_any_more_logs_for_itself_again(own_handler: Keeps) -> None:
    relay, logger, shows = Relay(), logging.getLogger("shipped.relay"), warnings.showwarning
    with warnings.catch_warnings():
        relay.apply(environment())
        logger.error("away")
        assert len(relay.taken()) == 1
        relay.leave()
        logger.error("here")
        assert relay.taken() == []
        assert warnings.showwarning is shows
    assert own_handler.said == ["here"]
    relay.leave()


def test_what_a_stateless_routine_collects_in_a_worker_is_named_as_lost(
    make_flow: MakeFlow, caplog: pytest.LogCaptureFixture
) -> None:
    flow = make_flow(**keywords("process", 1))
    flow.add_routine(Collects(), "collects")
    flow.add_output("collects", "out", "out")
    with caplog.at_level(logging.WARNING, "routilux_core"):
        for n in (-1, -2):
            finished(flow.execute("collects", {"n": n}))
        assert caplog.records == []
        for n in (1, 2):
            assert finished(flow.execute("collects", {"n": n})).results("out") == [{"n": n + 1}]
        flow.shutdown()  # what was emitted may be told before the batch ends, which the warning comes behind
    text = "routine 'collects' is stateless, and a call has changed what its attribute 'seen' holds: in this worker"
    assert [record.getMessage()[: len(text)] for record in caplog.records] == [text]
