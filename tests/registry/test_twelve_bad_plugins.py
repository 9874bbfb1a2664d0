"""Twelve bad plugins, built as wheels and installed by pip: each is named in one line, and everything else works."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from textwrap import dedent

import pytest

pytestmark = pytest.mark.once  # programs and their texts

STRATEGY = """
    import threading
    from attrs import frozen
    from routilux_core import Capabilities, ExecutionStrategy, WorkerPool

    class Pool(WorkerPool):
        workers = 2

        def submit(self, task):
            # in submit
            threading.Thread(target=task, daemon=True).start()

        def close(self, *, cancel=False, timeout=None):
            pass  # in close

    @frozen(kw_only=True)
    class Strategy(ExecutionStrategy):
        name = "NAME"
        contract = 2
        capabilities = Capabilities(shares_memory=True)

        def open(self, host):
            # in open
            return Pool()
"""
TRACKER = """
    from routilux_core import hookimpl

    @hookimpl
    def routilux_job_finished(job):
        print("heard of", job.job_id, job.status)
"""
DECIDES = """
    from routilux_core import Decision, hookimpl

    @hookimpl
    def routilux_handle_error(failure):
        return Decision("skip") if isinstance(failure.exception, LookupError) else None
"""


def strategy(old: str = "", new: str = "") -> str:
    """Return the code of a strategy with one thing wrong."""
    assert old in STRATEGY
    return STRATEGY.replace(old, new) if old else STRATEGY


# By name: the group, the code of the module, and what the one line says that is about this plugin.
BAD = {
    "import-error": (
        "plugins",
        "import no_such_module\n" + dedent(TRACKER),
        "plugin 'import-error' of bad-import-error 1.0 is left out: 'bad_import_error:tracker' can't be imported: "
        "ModuleNotFoundError: No module named 'no_such_module'",
    ),
    "syntax-error": (
        "plugins",
        "def f(:\n    pass",
        "plugin 'syntax-error' of bad-syntax-error 1.0 is left out: 'bad_syntax_error:tracker' can't be imported: "
        "SyntaxError: invalid syntax (bad_syntax_error.py, line 1)",
    ),
    "wrong-class": (
        "strategies",
        "class Strategy: pass",
        "strategy 'wrong-class' of bad-wrong-class 1.0: 'bad_wrong_class:Strategy' is <class "
        "'bad_wrong_class.Strategy'>, not a subclass of ExecutionStrategy",
    ),
    "wrong-signature": (
        "plugins",
        TRACKER.replace("(job)", "(job, colour)"),
        "plugin 'wrong-signature' of bad-wrong-signature 1.0 is left out: ",
    ),
    "mismatched": (
        "strategies",
        strategy("NAME", "other"),
        "strategy 'mismatched' of bad-mismatched 1.0: 'bad_mismatched:Strategy' calls itself 'other'; the two names "
        "have to agree",
    ),
    "clashing": (
        "strategies",
        strategy(),
        "strategy 'clashing' is claimed by bad-clashing 1.0 (bad_clashing:Strategy) and by bad-clashing-too 1.0 "
        "(bad_clashing_too:Strategy): which one is meant can't be told; uninstall one of them",
    ),
    "raises-in-open": (
        "strategies",
        strategy("# in open", "raise OSError('no cluster')"),
        "strategy 'raises-in-open' could not be opened: OSError('no cluster')",
    ),
    "raises-in-submit": (
        "strategies",
        strategy("# in submit", "raise OSError('queue is full')"),
        "strategy 'raises-in-submit' raised in submit",
    ),
    "raises-in-close": (
        "strategies",
        strategy("pass  # in close", "raise OSError('gone')"),
        "strategy 'raises-in-close' raised while its pool was closed",
    ),
    "hangs-in-close": (
        "strategies",
        strategy("pass  # in close", "threading.Event().wait()"),
        "strategy 'hangs-in-close' did not close its pool within 1 s; its workers are left behind",
    ),
    "nothing": (
        "plugins",
        TRACKER,
        "plugin 'nothing' of bad-nothing 1.0 is left out: 'bad_nothing:tracker' can't be imported: AttributeError: "
        "module 'bad_nothing' has no attribute 'tracker'",
    ),
    "other-contract": (
        "strategies",
        strategy("contract = 2", "contract = 3"),
        "strategy 'other-contract' of bad-other-contract 1.0 was made for version 3 of the strategy contract, and "
        "this routilux-core has version 2: install a newer routilux-core",
    ),
}
OF_STRATEGIES = [name for name, (group, _, _) in BAD.items() if group == "strategies"]
OF_PLUGINS = [name for name in BAD if name not in OF_STRATEGIES]

# Names no strategy itself: what is printed or logged is the core's.
PROGRAM = """
    import logging, sys
    from routilux_core import Flow, Routine, RoutiluxError, event, slot

    logging.basicConfig(format="%(message)s", stream=sys.stderr)

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
            if n == 3:
                raise LookupError(n)
            self.got.append(n)

    for number, name in enumerate(sys.argv[1:]):
        try:
            flow, sink = Flow(f"flow{number}", name), Sink()
            flow.add_routine(Source(), "source")
            flow.add_routine(sink, "sink")
            flow.connect("source", "out", "sink", "input")
            job = flow.execute("source")
            assert flow.wait_for_completion(20), "it hangs"
            flow.shutdown(timeout=0.0)
        except RoutiluxError as error:
            print(error)
        else:
            if job.status == "failed":
                print(job.errors[0].exception)
            print("JOB", number, job.status, sink.got, job.ledger.skipped)
"""
ANSWER = "completed [0, 1, 2, 4] 1"


def build_wheel(folder: Path, distribution: str, group: str, point: str, code: str) -> Path:
    """Build a distribution of one module, named like it, with one entry point."""
    module = distribution.replace("-", "_")
    info = f"{module}-1.0.dist-info"
    files = {
        f"{module}.py": dedent(code),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[routilux_core.{group}]\n{point}\n",
    }
    lines = [f"{name},sha256={digest(text)},{len(text.encode())}\n" for name, text in files.items()]
    path = folder / f"{module}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
        wheel.writestr(f"{info}/RECORD", "".join([*lines, f"{info}/RECORD,,\n"]))
    return path


def digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the twelve, and three good ones."""
    wheels, site = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("site")
    built = []
    for name, (group, code, _) in BAD.items():
        for distribution in (f"bad-{name}", "bad-clashing-too")[: 2 if name == "clashing" else 1]:
            attribute = {"strategies": ":Strategy", "plugins": ":tracker"}[group] if name != "wrong-signature" else ""
            point = f"{name} = {distribution.replace('-', '_')}{attribute}"
            built.append(build_wheel(wheels, distribution, group, point, code.replace("NAME", name)))
    for name, group, code in (
        ("good", "strategies", STRATEGY.replace("NAME", "good")),
        ("good-tracker", "plugins", TRACKER),
        ("good-decides", "plugins", DECIDES),
    ):
        point = f"{name} = {name.replace('-', '_')}{':Strategy' if group == 'strategies' else ''}"
        built.append(build_wheel(wheels, name, group, point, code))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--no-compile", "--target", str(site), *map(str, built)], check=True, timeout=100)
    return site


def run(site: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run Python in a fresh process that has these distributions; any Python warning is an error."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("ROUTILUX_")}
    kept["ROUTILUX_PLUGINS"] = "good-decides"
    path = os.pathsep.join([str(site), *filter(None, [kept.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        env=kept | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done


def test_the_twelve_are_twelve() -> None:
    assert len(BAD) == 12


def test_each_of_the_twelve_is_named_in_one_line_and_everything_else_works(site: Path) -> None:
    asked = [*OF_STRATEGIES, "good", "sequential", "concurrent"]
    done = run(site, "-c", dedent(PROGRAM), *asked)
    said = done.stdout.splitlines() + done.stderr.splitlines()
    for name, (_, _, line) in BAD.items():
        (found,) = [each for each in said if f"'{name}'" in each]
        assert line in found
    assert [each for each in said if "colour" in each], "the argument that no hook has is not named"
    working = ["raises-in-close", "hangs-in-close", "good", "sequential", "concurrent"]
    for number, name in enumerate(asked):
        answer = [each for each in said if each.startswith(f"JOB {number} ")]
        heard = [each for each in said if each.startswith(f"heard of flow{number}-")]
        if name in working:
            assert answer == [f"JOB {number} {ANSWER}"]
            assert [each.split()[-1] for each in heard] == ["completed"]
        elif name == "raises-in-submit":
            assert answer == [f"JOB {number} failed [] 0"]
            assert [each.split()[-1] for each in heard] == ["failed"]
        else:
            assert not answer + heard


def installed_here(group: str) -> set[str]:
    """Return the distributions of this environment that have plugins of a group, apart from the core."""
    points = importlib.metadata.entry_points(group=f"routilux_core.{group}")
    return {point.dist.name for point in points if point.dist is not None} - {"routilux-core"}


def test_the_list_of_strategies_has_each_of_them_in_a_line_of_its_own(site: Path) -> None:
    lines = run(site, "-m", "routilux_core.cli", "strategies", code=1).stdout.splitlines()
    rows = {name: [line for line in lines if line.split()[0] == name] for name in [*OF_STRATEGIES, *OF_PLUGINS]}
    assert {name: len(row) for name, row in rows.items()} == {
        name: 0 if name in OF_PLUGINS else 2 if name == "clashing" else 1 for name in BAD
    }
    assert "calls itself 'other'" in rows["mismatched"][0]
    assert "bad-clashing-too 1.0 claims the name, too" in rows["clashing"][0]
    here = sum(line.split()[1] in installed_here("strategies") for line in lines[1:])  # beside, in this environment
    assert len(lines) == 1 + 4 + 1 + len(OF_STRATEGIES) + 1 + here  # head, bundled, good, bad, the second that clashes


def test_the_list_of_plugins_has_each_of_them_with_its_state(site: Path) -> None:
    listed = json.loads(run(site, "-m", "routilux_core.cli", "plugins", "--json", code=1).stdout)
    entries = [each for each in listed if each["distribution"] not in installed_here("plugins")]
    states = {each["name"]: each["state"] for each in entries}
    assert states == dict.fromkeys(OF_PLUGINS, "broken") | {"good-tracker": "ok", "good-decides": "ok"}
    assert {each["version"] for each in entries} == {"1.0"}
    (decides,) = [each for each in entries if each["name"] == "good-decides"]
    assert (decides["distribution"], decides["hooks"]) == ("good-decides", ["routilux_handle_error"])
