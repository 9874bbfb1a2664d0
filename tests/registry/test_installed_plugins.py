"""Plugins as they are really installed: distributions on the path of a fresh process. One bad one hurts nobody else."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from routilux_core._registry.requirements import _holds


class Site:
    """A folder of installed distributions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self, distribution: str, version: str = "1.0", code: str | None = None, **groups: str) -> None:
        """Install one module, named like the distribution, and its entry points: `strategies="name = module:Class"`."""
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        text = "".join(f"[routilux_core.{group}]\n{points}\n" for group, points in groups.items())
        (info / "entry_points.txt").write_text(text)
        if code is not None:
            (self.folder / f"{distribution.replace('-', '_')}.py").write_text(dedent(code))

    def run(self, code: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a program in a fresh process that has these distributions; any Python warning is an error."""
        command = [sys.executable, "-W", "error", "-c", dedent(code)]
        done = subprocess.run(
            command, env=self.environment(**variables), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done

    def environment(self, **variables: str) -> dict[str, str]:
        kept = {name: text for name, text in os.environ.items() if not name.startswith("ROUTILUX_")}
        first = [str(self.folder), *filter(None, [kept.get("PYTHONPATH")])]
        return kept | {"PYTHONPATH": os.pathsep.join(first), "PYTHONDONTWRITEBYTECODE": "1"} | variables


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


STRATEGY = """
    import threading
    from attrs import frozen
    from routilux_core import Capabilities, ExecutionStrategy, WorkerPool

    class Pool(WorkerPool):
        workers = 2

        def submit(self, task):
            {submit}
            threading.Thread(target=task, daemon=True).start()

        def close(self, *, cancel=False, timeout=None):
            {close}

    @frozen(kw_only=True)
    class Strategy(ExecutionStrategy):
        name = {name!r}
        contract = {contract}
        capabilities = Capabilities(shares_memory=True)

        def open(self, host):
            {open}
            return Pool()
"""


def strategy(name: str, *, contract: object = 2, submit: str = "", close: str = "pass", open: str = "") -> str:
    return STRATEGY.format(name=name, contract=repr(contract), submit=submit, close=close, open=open)


TRACKER = """
    from routilux_core import hookimpl

    @hookimpl
    def routilux_job_finished(job):
        print("heard of", job.flow_id, job.status)
"""

# A flow, and what the core says of each strategy that it is asked for.
PROGRAM = """
    import json, logging, sys
    from routilux_core import Flow, Routine, RoutiluxError, event, slot

    logging.basicConfig(format="LOG %(message)s", stream=sys.stderr)

    class Source(Routine):
        out = event("n")

        @slot
        def trigger(self):
            for n in range(5):
                self.emit("out", n=n)

    class Sink(Routine):
        def __init__(self):
            super().__init__()
            self.got = []

        @slot
        def input(self, n):
            self.got.append(n)

    def attempt(name):
        try:
            flow = Flow("flow-" + name, name)
            sink = Sink()
            flow.add_routine(Source(), "source")
            flow.add_routine(sink, "sink")
            flow.connect("source", "out", "sink", "input")
            job = flow.execute("source")
            assert flow.wait_for_completion(20), "it hangs"
            flow.shutdown(timeout=0.0)
        except RoutiluxError as error:
            return type(error).__name__ + ": " + str(error)
        if job.errors:
            return job.status + ": " + str(job.errors[0].exception)
        return job.status + " " + str(sink.got)
"""
ANSWER = "completed [0, 1, 2, 3, 4]"

OTHER_CONTRACT = {"newer", "older", "unstated", "true", "float", "text", "inherited"}
BAD_STRATEGIES = {
    "import-error": ("import no_such_module", "strategy 'import-error' of bad-import-error 1.0: ", "No module named"),
    "syntax-error": ("def f(:\n    pass", "strategy 'syntax-error' of bad-syntax-error 1.0: ", "SyntaxError"),
    "exits": ("raise SystemExit('bye')", "strategy 'exits' of bad-exits 1.0: ", "SystemExit: bye"),
    "wrong-class": ("class Strategy: pass", "strategy 'wrong-class' of bad-wrong-class 1.0", "not a subclass of Exec"),
    "mismatched": (strategy("other-name"), "strategy 'mismatched' of bad-mismatched 1.0", "calls itself 'other-name'"),
    "nothing": ("x = 1", "strategy 'nothing' of bad-nothing 1.0", "has no attribute 'Strategy'"),
    "newer": (strategy("newer", contract=3), "strategy 'newer' of bad-newer 1.0", "install a newer routilux-core"),
    "unstated": (
        strategy("unstated").replace("contract = 2", ""),
        "strategy 'unstated' of bad-unstated 1.0: 'bad_unstated:Strategy' does not say for which version",
        "write `contract: ClassVar[int] = 2` in it",
    ),
    "true": (strategy("true", contract=True), "strategy 'true' of bad-true 1.0: ", "has contract = True, which is no"),
    "float": (strategy("float", contract=2.0), "strategy 'float' of bad-float 1.0: ", "has contract = 2.0, which is"),
    "text": (strategy("text", contract="2"), "strategy 'text' of bad-text 1.0: ", "has contract = '2', which is no"),
    "inherited": (
        "from routilux_core_plugins.threaded import ConcurrentStrategy\n"
        "class Strategy(ConcurrentStrategy):\n    name = 'inherited'",
        "strategy 'inherited' of bad-inherited 1.0: ",
        "does not say for which version",
    ),
    "batch-text": (
        strategy("batch-text").replace("shares_memory=True", "shares_memory=True, max_batch='64'"),
        "strategy 'batch-text' of bad-batch-text 1.0: ",
        "max_batch has to be a whole number from 1, not '64'",
    ),
    "older": (strategy("older", contract=1), "strategy 'older' of bad-older 1.0", "install a newer version of that"),
    "incapable": (
        strategy("incapable").replace("capabilities =", "capability ="),
        "strategy 'incapable' of bad-incapable 1.0",
        "declares no capabilities",
    ),
    "abstract": (
        strategy("abstract").replace("def open", "def opens"),
        "strategy 'abstract' of bad-abstract 1.0",
        "does not implement open",
    ),
    "raises-in-open": (
        strategy("raises-in-open", open="raise OSError('no cluster')"),
        "strategy 'raises-in-open' could not be opened",
        "no cluster",
    ),
    "raises-in-submit": (
        strategy("raises-in-submit", submit="raise OSError('queue is full')"),
        "failed: strategy 'raises-in-submit' raised in submit",
        "queue is full",
    ),
}


@pytest.fixture
def bad_site(site: Site) -> Site:
    """Everything that can be wrong with a strategy, side by side, and a good strategy and a good tracker."""
    for name, (code, _, _) in BAD_STRATEGIES.items():
        module = f"bad_{name.replace('-', '_')}"
        site.install(f"bad-{name}", code=code, strategies=f"{name} = {module}:Strategy")
    for name, close in (("raises-in-close", "raise OSError('gone')"), ("hangs-in-close", "threading.Event().wait()")):
        module = f"bad_{name.replace('-', '_')}"
        site.install(f"bad-{name}", code=strategy(name, close=close), strategies=f"{name} = {module}:Strategy")
    for owner in ("clash-one", "clash-two"):
        module = owner.replace("-", "_")
        site.install(owner, version="2.0", code=strategy("clash"), strategies=f"clash = {module}:Strategy")
    site.install("usurper", code=strategy("sequential"), strategies="sequential = usurper:Strategy")
    site.install("good-strategy", code=strategy("good"), strategies="good = good_strategy:Strategy")
    site.install("good-tracker", code=TRACKER, plugins="good-tracker = good_tracker")
    return site


def test_each_bad_strategy_is_named_in_one_line_and_the_others_work(bad_site: Site) -> None:
    asked = [*BAD_STRATEGIES, "clash", "raises-in-close", "hangs-in-close", "good", "concurrent", "sequential"]
    done = bad_site.run(PROGRAM + f"\n    print('ANSWERS', json.dumps({{n: attempt(n) for n in {asked}}}))")
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("ANSWERS")]
    answers = json.loads(line.removeprefix("ANSWERS"))
    for name, (_, named, why) in BAD_STRATEGIES.items():
        assert named in answers[name], answers[name]
        assert why in answers[name]
        assert "\n" not in answers[name]
    assert "claimed by clash-one 2.0 (clash_one:Strategy) and by clash-two 2.0 (clash_two:Strategy)" in answers["clash"]
    for name in ("raises-in-close", "hangs-in-close", "good", "concurrent", "sequential"):
        assert answers[name] == ANSWER
        assert f"heard of flow-{name} completed" in done.stdout
    assert "heard of flow-raises-in-submit failed" in done.stdout
    logged = [line for line in done.stderr.splitlines() if line.startswith("LOG ")]
    assert [line for line in logged if "raises-in-close" in line] == [
        "LOG strategy 'raises-in-close' raised while its pool was closed"
    ]
    assert [line for line in logged if "hangs-in-close" in line] == [
        "LOG strategy 'hangs-in-close' did not close its pool within 1 s; its workers are left behind"
    ]


@pytest.mark.once
def test_the_list_of_strategies_names_each_with_its_state(bad_site: Site) -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "routilux_core.cli", "strategies", "--json"],
        env=bad_site.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert listed.returncode == 1, "some are broken"
    entries = json.loads(listed.stdout)
    states = {(each["name"], each["distribution"]): each["state"] for each in entries}
    broken = (
        "batch-text",
        "import-error",
        "syntax-error",
        "exits",
        "wrong-class",
        "mismatched",
        "nothing",
        "abstract",
        "incapable",
    )
    assert {name for (name, _), state in states.items() if state == "broken"} == set(broken)
    assert {name for (name, _), state in states.items() if state == "other contract"} == OTHER_CONTRACT
    assert {owner for (_, owner), state in states.items() if state == "clash"} == {"clash-one", "clash-two", "usurper"}
    assert states["sequential", "routilux-core"] == states["good", "good-strategy"] == "ok"
    for each in entries:
        assert (each["state"] == "ok") is not bool(each["why"])
        assert "\n" not in each["why"]
    (good,) = [each for each in entries if each["name"] == "good"]
    assert good["version"] == "1.0"
    assert good["capabilities"]["shares_memory"] is True
    table = subprocess.run(
        [sys.executable, "-m", "routilux_core.cli", "strategies"],
        env=bad_site.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    ).stdout.splitlines()
    assert len(table) == len(entries) + 1
    shown = {line.split()[0]: line.split(maxsplit=4)[3:] for line in table}
    assert shown["good"] == ["ok", "shares_memory, parallel, contract 2"]
    assert shown["process"] == [
        "ok",
        "parallel, enforces_timeout, streams, max_batch 4096, batch_seconds 0.016, contract 2",
    ]


BAD_PLUGINS = {
    "import-error": ("import no_such_module", "No module named 'no_such_module'"),
    "syntax-error": ("def f(:\n    pass", "SyntaxError"),
    "exits": ("raise SystemExit('bye')", "SystemExit: bye"),
    "no-hook": ("x = 1", "implements none of the hooks"),
    "raising-class": ("class Plugin:\n    def __init__(self): raise OSError('no disk')", "no disk"),
    "signature": (TRACKER.replace("(job)", "(job, colour)"), "colour"),
    "wrapper": (
        "from routilux_core import hookimpl\n@hookimpl(wrapper=True)\ndef routilux_job_started(job):\n    yield",
        "routilux_job_started is a wrapper",
    ),
    "coroutine": (TRACKER.replace("def ", "async def "), "is an `async def`"),
    "unmarked": (TRACKER.replace("@hookimpl", ""), "routilux_job_finished is not marked with @hookimpl"),
}


@pytest.fixture
def bad_plugins(site: Site) -> Site:
    for name, (code, _) in BAD_PLUGINS.items():
        module = f"bad_{name.replace('-', '_')}"
        attribute = ":Plugin" if name == "raising-class" else ""
        site.install(f"bad-{name}", code=code, plugins=f"{name} = {module}{attribute}")
    site.install("bad-nothing", code="x = 1", plugins="nothing = bad_nothing:absent.plugin")
    for owner in ("clash-one", "clash-two"):
        site.install(owner, version="2.0", code=TRACKER, plugins=f"clash = {owner.replace('-', '_')}")
    future = TRACKER + "\n    @hookimpl\n    def routilux_job_paused(job):\n        print('never')\n"
    site.install("good-future", code=future, plugins="future = good_future")
    site.install("good-tracker", code=TRACKER.replace("heard of", "tracked"), plugins="tracker = good_tracker")
    return site


def test_each_bad_plugin_is_named_in_one_warning_and_the_others_work(bad_plugins: Site) -> None:
    done = bad_plugins.run(PROGRAM + "\n    print(attempt('sequential'), attempt('concurrent'))")
    assert f"{ANSWER} {ANSWER}" in done.stdout
    for name in ("sequential", "concurrent"):
        for word in ("heard of", "tracked"):
            assert done.stdout.count(f"{word} flow-{name} completed") == 1
    assert done.stderr.splitlines() == [line for line in done.stderr.splitlines() if line.startswith("LOG plugin ")]
    reasons = {name: why for name, (_, why) in BAD_PLUGINS.items()} | {"nothing": "has no attribute 'absent'"}
    for name, why in reasons.items():
        (line,) = [
            line for line in done.stderr.splitlines() if f"plugin {name!r} of bad-{name} 1.0 is left out" in line
        ]
        assert why in line
    clashes = [line for line in done.stderr.splitlines() if "plugin 'clash'" in line]
    assert len(clashes) == 2
    assert all("clash-one 2.0 and by clash-two 2.0" in line for line in clashes)
    (unknown,) = [line for line in done.stderr.splitlines() if "'future'" in line]
    assert "no hook routilux_job_paused" in unknown
    assert len(done.stderr.splitlines()) == len(reasons) + 3


@pytest.mark.once
def test_the_list_of_plugins_names_each_with_its_state(bad_plugins: Site) -> None:
    command = [sys.executable, "-m", "routilux_core.cli", "plugins", "--json"]
    environment = bad_plugins.environment(ROUTILUX_DISABLE_PLUGINS="tracker,exits")
    listed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert listed.returncode == 1, "some are broken"
    assert listed.stderr == ""
    entries = json.loads(listed.stdout)
    states = {each["name"]: each["state"] for each in entries}
    assert states.pop("tracker") == states.pop("exits") == "disabled"
    assert states.pop("clash") == "clash"
    assert states.pop("future") == "ok"
    assert set(states.values()) == {"broken"}
    assert all((each["state"] == "ok") is not bool(each["why"]) and "\n" not in each["why"] for each in entries)
    (future,) = [each for each in entries if each["name"] == "future"]
    assert (future["hooks"], future["distribution"]) == (["routilux_job_finished"], "good-future")


@pytest.mark.once
@pytest.mark.parametrize("command", ["plugins", "strategies"])
def test_what_a_plugin_prints_while_it_is_imported_spoils_no_list(site: Site, command: str) -> None:
    site.install("loud-tracker", code="print('loud')\n" + dedent(TRACKER), plugins="loud = loud_tracker")
    site.install("loud", code="print('loud')\n" + dedent(strategy("loud")), strategies="loud = loud:Strategy")
    listed = subprocess.run(
        [sys.executable, "-m", "routilux_core.cli", command, "--json"],
        env=site.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert [each["state"] for each in json.loads(listed.stdout) if each["name"] == "loud"] == ["ok"]
    assert set(listed.stderr.splitlines()) == {"loud"}  # strategies are asked of plugins, too


@pytest.mark.once
@pytest.mark.parametrize(("disabled", "heard"), [("", 2), ("one", 1), (" one , two", 0), ("*", 0), ("other", 2)])
def test_plugins_can_be_disabled_by_name(site: Site, disabled: str, heard: int) -> None:
    for name in ("one", "two"):
        site.install(f"tracker-{name}", code=TRACKER, plugins=f"{name} = tracker_{name}")
    done = site.run(PROGRAM + "\n    attempt('sequential')", ROUTILUX_DISABLE_PLUGINS=disabled)
    assert done.stdout.count("heard of") == heard
    assert done.stderr == ""


@pytest.mark.once
def test_tracing_tells_what_was_loaded_and_called(site: Site) -> None:
    site.install("tracker-one", version="3.1", code=TRACKER, plugins="one = tracker_one")
    done = site.run(PROGRAM + "\n    attempt('sequential')", ROUTILUX_TRACE_PLUGINS="1")
    lines = done.stderr.splitlines()
    assert all(line.startswith("routilux plugins: ") for line in lines)
    assert any("'one' from tracker_one (tracker-one 3.1) took" in line for line in lines)
    assert any("1 of 1 plugins loaded" in line for line in lines)
    assert any("plugin 'one', routilux_job_finished: told about job flow-sequential-" in line for line in lines)


METADATA = "\n    print('READER', 'importlib.metadata' in sys.modules)"


def test_package_metadata_is_read_only_where_a_plugin_could_be(site: Site) -> None:
    site.install("strategies-only", code=strategy("good"), strategies="good = strategies_only:Strategy")
    program = PROGRAM + "\n    attempt('sequential'); attempt('concurrent')" + METADATA
    assert "READER False" in site.run(program).stdout
    site.install("tracker-one", code=TRACKER, plugins="one = tracker_one")
    assert "READER True" in site.run(program).stdout


def test_a_strategy_is_imported_when_it_is_selected_and_not_before(site: Site) -> None:
    site.install("loud", code="print('imported')\n" + dedent(strategy("loud")), strategies="loud = loud:Strategy")
    done = site.run(PROGRAM + "\n    attempt('concurrent'); print('now'); attempt('loud'); attempt('loud')")
    assert done.stdout.splitlines() == ["now", "imported"]


@pytest.mark.once
def test_an_installed_plugin_that_makes_strategies_is_asked_before_the_first_job(site: Site) -> None:
    code = strategy("pattern") + (
        "\n    from routilux_core import hookimpl\n"
        "    @hookimpl\n    def routilux_make_strategy(request):\n"
        "        return Strategy(max_workers=request.max_workers) if request.name.startswith('pattern:') else None\n"
    )
    site.install("makes", code=code, plugins="makes = makes")
    program = PROGRAM + "\n    print(attempt('pattern:x')); print(attempt('patern'))"
    assert "unknown execution strategy 'pattern:x'" in site.run(program).stdout, "nobody has named the plugin"
    noted = """
    try:
        Flow(execution_strategy="pattern:x")
    except RoutiluxError as error:
        print(error.__notes__)
    """
    said = site.run(PROGRAM + noted).stdout
    assert "is installed, and acts only where it is named, in Flow(plugins=[...]) or ROUTILUX_PLUGINS: 'makes'" in said
    first, second = site.run(program, ROUTILUX_PLUGINS="makes").stdout.splitlines()
    assert first == ANSWER
    assert second.startswith("UnknownStrategyError: unknown execution strategy 'patern'")


@pytest.mark.once
def test_the_list_of_strategies_says_which_of_two_runs(site: Site) -> None:
    code = strategy("good") + (
        "\n    from routilux_core import hookimpl\n"
        "    @hookimpl\n    def routilux_make_strategy(request):\n"
        "        return Strategy() if request.name == 'good' else None\n"
    )
    for owner in ("makes", "makes-too"):
        site.install(owner, code=code, plugins=f"{owner} = {owner.replace('-', '_')}")
    site.install("good-strategy", code=strategy("good"), strategies="good = good_strategy:Strategy")
    for owner in ("clash-one", "clash-two"):
        site.install(owner, code=strategy("clash"), strategies=f"clash = {owner.replace('-', '_')}:Strategy")

    def shown(**variables: str) -> dict[str, str]:
        command = [sys.executable, "-m", "routilux_core.cli", "strategies"]
        environment = site.environment(**variables)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        return {line.split()[0]: line for line in done.stdout.splitlines()}

    assert "clash-one 1.0 claims the name, too, and none of them runs: uninstall all but one" in shown()["clash"]
    assert "made by" not in shown()["good"], "nobody has named the plugins"
    makers = "the name is made by plugin 'makes', and is known to plugin 'makes-too', too"
    assert f"(another one runs: {makers})" in shown(ROUTILUX_PLUGINS="*")["good"]


@pytest.mark.once
def test_the_plugins_of_a_flow_are_asked_before_the_installed_ones(site: Site) -> None:
    decides = """
        from routilux_core import Decision, hookimpl

        class Decides:
            def __init__(self, answers):
                self.answers = answers

            @hookimpl
            def routilux_handle_error(self, failure):
                return self.answers.get(str(failure.exception))

        installed = Decides({"1": Decision("continue"), "2": Decision("continue")})
    """
    site.install("decides", code=decides, plugins="decides = decides:installed")
    program = """
    from decides import Decides, Decision, installed

    class Fails(Routine):
        @slot
        def input(self, n):
            raise ValueError(n)

    for plugins in ([], [Decides({"1": Decision("skip"), "0": Decision("skip")})], [installed]):
        flow = Flow(plugins=plugins)
        flow.add_routine(Source(), "source")
        flow.add_routine(Fails(), "fails")
        flow.connect("source", "out", "fails", "input")
        job = flow.run("source")
        print(*[f"{failure.exception}={failure.decision}" for failure in job.errors])
    """
    done = site.run(PROGRAM + program, ROUTILUX_PLUGINS="other, decides")
    assert done.stdout.splitlines() == ["0=stop", "0=skip 1=skip 2=continue 3=stop", "0=stop"]
    assert "ROUTILUX_PLUGINS names plugins that are not installed: 'other'" in done.stderr
    done = site.run(PROGRAM + program)
    assert done.stdout.splitlines() == ["0=stop", "0=skip 1=skip 2=stop", "0=stop"], (
        "nobody has named the installed one"
    )


@pytest.mark.once
def test_installed_plugins_are_asked_in_the_order_of_their_names(site: Site) -> None:
    code = """
        from routilux_core import hookimpl

        class Plugin:
            @hookimpl{how}
            def routilux_handle_error(self, failure):
                print("{name} is asked")

            @hookimpl
            def routilux_job_finished(self, job):
                print("{name} is told")
    """
    for name, how in (("c", ""), ("a", ""), ("d", "(tryfirst=True)"), ("b", "")):
        site.install(f"asked-{name}", code=code.format(name=name, how=how), plugins=f"{name} = asked_{name}:Plugin")
    program = """
    class Fails(Routine):
        @slot
        def input(self):
            raise ValueError

    flow = Flow(error_handler="skip")
    flow.add_routine(Fails(), "fails")
    flow.run("fails")
    """
    said = site.run(PROGRAM + program, ROUTILUX_PLUGINS="*").stdout.splitlines()
    assert said == [f"{name} is asked" for name in "dabc"] + [f"{name} is told" for name in "abcd"]
    said = site.run(PROGRAM + program, ROUTILUX_PLUGINS="c").stdout.splitlines()
    assert said == ["c is asked"] + [f"{name} is told" for name in "abcd"], "trackers listen without being named"


@pytest.mark.once
def test_an_installed_plugin_spares_no_call_where_nobody_has_named_it(site: Site) -> None:
    code = """
        from routilux_core import Decision, hookimpl

        @hookimpl
        def routilux_admit(activation):
            return Decision("skip")
    """
    site.install("spares", code=code, plugins="spares = spares")
    program = """
    class Called(Routine):
        @slot
        def input(self):
            print("called")

    for plugins in ([], ["spares"]):
        flow = Flow(plugins=plugins)
        flow.add_routine(Called(), "called")
        print(flow.run("called").ledger.skipped)
    """
    assert site.run(PROGRAM + program).stdout.split() == ["called", "0", "1"]


BREAKER = """
    from routilux_core import Decision, hookimpl

    class Breaker:
        made = 0

        def __init__(self, decision="skip"):
            type(self).made += 1
            self.decision, self.number = Decision(decision), self.made

        @hookimpl
        def routilux_handle_error(self, failure):
            return self.decision

        @hookimpl
        def routilux_job_finished(self, job):
            print(self.number, "is told of", job.status)

    plain = Breaker()
"""
FAILING = """
    class Fails(Routine):
        @slot
        def input(self):
            raise ValueError

    def ends(*plugins):
        try:
            with Flow(plugins=plugins) as flow:
                flow.add_routine(Fails(), "fails")
                print(*[failure.decision for failure in flow.run("fails").errors])
        except RoutiluxError as error:
            print(type(error).__name__, error)
"""


@pytest.mark.once
def test_an_error_plugin_acts_in_the_flows_that_name_it(site: Site) -> None:
    site.install("break-it", code=BREAKER, plugins="breaker = break_it:Breaker\nplain = break_it:plain")
    said = site.run(
        PROGRAM
        + FAILING
        + """
    ends()
    ends("breaker")
    ends({"breaker": {"decision": "continue"}})
    ends({"breaker": {"decision": "continue"}, "plain": {}})
    ends("braker")
    ends({"breaker": {"colour": "red"}})
    ends({"plain": {"decision": "skip"}})
    ends({"breaker": "continue"})
    """
    ).stdout.splitlines()
    told = [line for line in said if "told" in line]
    decided = [line for line in said if "told" not in line]
    assert decided[:4] == ["stop", "skip", "continue", "skip"], "the last that was given is asked first"
    assert decided[4].startswith("UnknownNameError unknown installed plugin 'braker'; did you mean 'breaker'?")
    assert decided[5].startswith("ConfigurationError plugins=: plugin 'breaker' of break-it 1.0: Breaker() raised: ")
    assert decided[6].endswith("it is no class, so it takes no options")
    assert decided[7].endswith("the options of plugin 'breaker' are a mapping, not 'continue'")
    assert len(told) == 4 * 2, "one that a flow has named takes the place of the one of the process"
    assert sum(line.startswith(("3 ", "4 ")) for line in told) == 2, "with options it is made for the flow"


@pytest.mark.once
def test_an_installed_class_that_only_decides_is_made_when_a_flow_names_it(site: Site) -> None:
    site.install(
        "break-it",
        code="""
            from routilux_core import Decision, hookimpl

            class Easy:
                def __init__(self, decision="skip"):
                    print("made for", decision)
                    self.decision = decision

                @hookimpl
                def routilux_handle_error(self, failure):
                    return Decision(self.decision)

            class Strict(Easy):
                def __init__(self, *, decision):
                    super().__init__(decision)
        """,
        plugins="easy = break_it:Easy\nstrict = break_it:Strict",
    )
    done = site.run(
        PROGRAM
        + FAILING
        + """
    ends()
    ends("easy")
    ends("easy")
    ends({"strict": {"decision": "continue"}})
    ends("strict")
    """
    )
    *said, refused = done.stdout.splitlines()
    assert said == ["stop", "made for skip", "skip", "skip", "made for continue", "continue"]
    assert refused.startswith(
        "ConfigurationError plugins=: plugin 'strict' of break-it 1.0: Strict() raised: TypeError"
    )
    assert "is left out" not in done.stderr
    assert cli(site, "plugins").stdout.count("not active: routilux_handle_error") == 2


@pytest.mark.once
def test_the_list_of_plugins_tells_which_hooks_are_active(site: Site) -> None:
    site.install("break-it", code=BREAKER, plugins="breaker = break_it:Breaker")
    [found] = json.loads(cli(site, "plugins", "--json").stdout)
    assert found["hooks"] == ["routilux_handle_error", "routilux_job_finished"]
    assert found["active"] == ["routilux_job_finished"]
    table = cli(site, "plugins").stdout
    assert "(not active: routilux_handle_error; name it in Flow(plugins=[...]) or ROUTILUX_PLUGINS)" in table
    command = [sys.executable, "-m", "routilux_core.cli", "plugins", "--json"]
    environment = site.environment(ROUTILUX_PLUGINS="breaker")
    [found] = json.loads(subprocess.run(command, env=environment, capture_output=True, timeout=60, check=True).stdout)
    assert found["active"] == found["hooks"]


def test_a_finder_of_distributions_that_is_broken_leaves_the_core_working(site: Site) -> None:
    program = """
    class Finder:
        def find_spec(self, *_): return None
        def find_distributions(self, *_): raise OSError("no index")

    sys.meta_path.append(Finder())
    print(attempt("sequential"))
    """
    done = site.run(PROGRAM + program)
    assert done.stdout.strip() == ANSWER
    assert done.stderr.strip() == "LOG the installed plugins can't be listed, and none is used: OSError: no index"


@pytest.mark.once
def test_unknown_names_say_what_is_close_what_there_is_and_what_to_install(site: Site) -> None:
    site.install("good-strategy", code=strategy("good"), strategies="good = good_strategy:Strategy")
    done = site.run(PROGRAM + "\n    for name in ('gopd', 'dask', 'threads', 'xyz'): print(attempt(name))")
    close, dask, threads, other = done.stdout.splitlines()
    assert "did you mean 'good'?" in close
    there_is = re.findall("'([^']*)'", close.partition("(there is: ")[2])  # and what is installed beside
    assert {"asyncio", "concurrent", "good", "process", "sequential"} <= set(there_is)
    assert there_is == sorted(there_is)
    installed = {point.name for point in importlib.metadata.entry_points(group="routilux_core.strategies")}
    assert "pip install routilux-dask" in dask or "dask" in installed
    assert "Threads are called 'concurrent'" in threads
    assert "`routilux strategies` lists" in other


def test_distributions_whose_metadata_cannot_be_read_hide_nothing(site: Site) -> None:
    broken = site.folder / "broken-1.0.dist-info"
    broken.mkdir()
    (broken / "entry_points.txt").write_bytes(b"[routilux_core.plugins\n\xff\xfe = = x\n")
    nameless = site.folder / "nameless-1.0.dist-info"
    nameless.mkdir()
    (nameless / "entry_points.txt").write_text("[routilux_core.plugins]\nnameless = tracker_one\n")
    site.install("tracker-one", code=TRACKER, plugins="one = tracker_one")
    done = site.run(PROGRAM + "\n    attempt('sequential')")
    assert "heard of flow-sequential completed" in done.stdout


def test_a_plugin_in_a_zip_archive_is_found(tmp_path: Path) -> None:
    archive = tmp_path / "plugins.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("zipped.py", dedent(TRACKER))
        file.writestr("zipped-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: zipped\nVersion: 1.0\n")
        file.writestr("zipped-1.0.dist-info/entry_points.txt", "[routilux_core.plugins]\nzipped = zipped\n")
    done = Site(archive).run(PROGRAM + "\n    attempt('sequential')")
    assert "heard of flow-sequential completed" in done.stdout


def cli(site: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "routilux_core.cli", *arguments],
        env=site.environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def entry(site: Site, name: str) -> dict[str, Any]:
    [found] = [each for each in json.loads(cli(site, "strategies", "--json").stdout) if each["name"] == name]
    return found


def test_an_entry_point_with_extras_works(site: Site) -> None:
    site.install("extra-one", code=strategy("extra"), strategies="extra = extra_one:Strategy [gpu,fast]")
    site.install("extra-two", code=TRACKER, plugins="heard = extra_two [gpu]")
    done = site.run(PROGRAM + "\n    print(attempt('extra'))")
    assert done.stdout.splitlines()[-1] == ANSWER
    assert "heard of" in done.stdout
    assert entry(site, "extra")["target"] == "extra_one:Strategy"


@pytest.mark.once
def test_the_list_of_strategies_has_exit_code_0_only_where_all_work(site: Site) -> None:
    site.install("good-one", code=strategy("good"), strategies="good = good_one:Strategy")
    assert cli(site, "strategies").returncode == 0
    needs = strategy("needs").replace("contract = 2", "contract = 2\n        address: str")
    site.install("needs-one", code=needs, strategies="needs = needs_one:Strategy")
    assert cli(site, "strategies").returncode == cli(site, "strategies", "--json").returncode == 1
    found = entry(site, "needs")
    assert found["state"] == "broken"
    assert "'address'" in found["why"], "it can't be made by its name alone"


@pytest.mark.once
def test_a_strategy_that_raises_when_it_is_made_is_broken(site: Site) -> None:
    code = strategy("raises").replace("contract = 2", "contract = 2\n        def __attrs_post_init__(self): 1 / 0")
    site.install("raises-one", code=code, strategies="raises = raises_one:Strategy")
    assert entry(site, "raises")["why"] == "it can't be made: ZeroDivisionError: division by zero"


@pytest.mark.once
def test_requirements_that_are_not_met_are_shown(site: Site) -> None:
    site.install("wants-one", code=strategy("wants"), strategies="wants = wants_one:Strategy")
    site.install("tracks-one", code=TRACKER, plugins="tracks = tracks_one")
    for module in ("wants_one", "tracks_one"):
        with (site.folder / f"{module}-1.0.dist-info" / "METADATA").open("a") as file:
            file.write("Requires-Dist: routilux-core>=2,<3\nRequires-Dist: no-such-thing[all]>=1\n")
            file.write("Requires-Dist: attrs>=20\nRequires-Dist: other-thing; extra == 'test'\n")
    found = entry(site, "wants")
    here = importlib.metadata.version("routilux-core")
    assert found["state"] == "unmet"
    assert found["why"] == (
        f"it requires routilux-core>=2,<3, and version {here} is installed; "
        "it requires no-such-thing[all]>=1, which is not installed"
    )
    told = cli(site, "plugins")
    assert told.returncode == 1
    assert "it requires routilux-core>=2,<3" in told.stdout


@pytest.mark.parametrize(
    ("clause", "here", "holds"),
    [
        (">=2", "1.9", False),
        (">=2", "2.0", True),
        (">=0.1", "0.1.0.dev3", True),
        ("<1", "0.9.9", True),
        ("<1", "1", False),
        ("~=2.1", "2.9", True),
        ("~=2.1", "3.0", False),
        ("==1.0", "1", True),
        ("!=1.0", "1", False),
        ("==1.*", "7", True),  # what can't be judged counts as there
    ],
)
def test_versions_are_compared_by_their_numbers(clause: str, here: str, holds: bool) -> None:
    assert _holds(clause, here) is holds


@pytest.mark.once
def test_an_import_that_takes_long_is_named(site: Site) -> None:
    slow = "import time\nfrom routilux_core._registry import entry_points\nentry_points.SLOW_S = 0.1\ntime.sleep(0.2)\n"
    site.install("slow-one", code=slow + dedent(strategy("slow")), strategies="slow = slow_one:Strategy")
    done = site.run(PROGRAM + "\n    print(attempt('slow'))")
    assert "LOG the import of 'slow_one:Strategy' took " in done.stderr


@pytest.mark.once
def test_no_control_character_of_a_plugin_reaches_the_terminal(site: Site) -> None:
    evil = "\x1b[2Jevil\x07"
    site.install("evil-one", code=f"raise OSError({evil!r})", strategies="evil = evil_one:Strategy")
    site.install("evil-two", code=f"raise OSError({evil!r})", plugins="evil = evil_two")
    info = site.folder / "evil_one-1.0.dist-info" / "METADATA"
    info.write_text(info.read_text().replace("Version: 1.0", "Version: 1.0\x1b[31m"))
    done = site.run(PROGRAM + "\n    print(attempt('evil'))\n    print(attempt('sequential'))")
    for told in (cli(site, "strategies"), cli(site, "plugins"), done):
        assert "evil" in told.stdout + told.stderr
        assert not set("\x1b\x07") & set(told.stdout + told.stderr)
