"""The example of a third party's distribution works from its wheel, passes the kit, and is missed when it is gone."""

from __future__ import annotations

import json
import os
import subprocess
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from places import CHECKOUT

EXAMPLE = CHECKOUT / "examples" / "custom_strategy"
DEMO = CHECKOUT / "examples" / "concurrent_flow_demo.py"
PROGRAM = """\
import sys

from routilux_core import Flow, Routine, event, slot


class Square(Routine, stateless=True, type_name="square"):
    done = event("n")

    @slot
    def n(self, n: int) -> None:
        self.emit("done", n=n * n)


if __name__ == "__main__":
    if sys.argv[1] == "load":
        flow = Flow.load("square.json")
        print("loaded", flow.execution_strategy, flow.max_workers)
    else:
        flow = Flow(execution_strategy="loky", max_workers=2)
        flow.add_routine(Square(), "square")
        flow.add_output("square", "done")
        flow.save("square.json")
    with flow:
        print(flow.run("square", {"n": 7}).outputs)
"""
SERVED = """\
import asyncio, logging, sys

import uvicorn

sys.path.insert(0, sys.argv[1])
import asgi_app

logging.getLogger("routilux_core").setLevel(logging.ERROR)  # a busy machine may seem to block the loop


async def ask(port, n):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /{'x' * n} HTTP/1.1\\r\\nHost: here\\r\\nConnection: close\\r\\n\\r\\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.endswith(f': {n}}}'.encode())


async def main():
    server = uvicorn.Server(uvicorn.Config(asgi_app.app, port=0, log_level="warning", lifespan="on"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    answers = await asyncio.gather(*(ask(port, n) for _ in range(3) for n in range(1, 101)))
    server.should_exit = True
    await serving
    print(sum(answers), "answers of", len(answers))


asyncio.run(main())
"""
OURS = {"PYTHONPATH", "PYTHONSAFEPATH", "PYTEST_ADDOPTS", "COVERAGE_FILE"}  # what a user's environment has not
ANSWER = "{'square.done': [{'n': 49}]}"


def fresh(test: Callable[[Environment], None]) -> Callable[[Environment], None]:
    """Leave a test to `tox run -e example`: what it installs is fetched, and takes its time."""
    return pytest.mark.fresh(pytest.mark.timeout(900)(test))


class Environment:
    """A fresh virtual environment, which sees nothing of this one."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder / "venv", with_pip=True)
        self.python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
        self.folder = folder

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, *command],
            cwd=self.folder,
            env={name: value for name, value in os.environ.items() if name not in OURS},
            capture_output=True,
            text=True,
            timeout=600,
        )

    def does(self, *command: str | Path) -> str:
        done = self.run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A fresh environment with the core and the example, each from a wheel that was built here."""
    folder = tmp_path_factory.mktemp("fresh")
    made = Environment(folder)
    wheels = folder / "wheels"
    for source in (CHECKOUT, EXAMPLE):
        made.does("-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", wheels, source)
    [core], [example] = wheels.glob("routilux_core*.whl"), wheels.glob("routilux_loky*.whl")
    made.does("-m", "pip", "install", "--quiet", f"routilux-core[testing] @ {core.as_uri()}")
    (folder / "program.py").write_text(PROGRAM, "utf-8")
    made.does("-m", "pip", "install", "--quiet", example)
    return made


@fresh
def test_its_tests_pass_from_its_wheel(environment: Environment) -> None:
    tests = environment.does(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", environment.folder, EXAMPLE / "tests"
    )
    assert " passed" in tests
    assert "failed" not in tests


@fresh
def test_the_demo_has_the_same_results_on_it(environment: Environment) -> None:
    told = {
        strategy: json.loads(environment.does(DEMO, "--json", "--strategy", strategy))
        for strategy in ("sequential", "loky")
    }
    assert len(told["loky"]["results"]) == 3
    assert told["loky"]["results"] == told["sequential"]["results"]
    assert told["loky"]["jobs"]["main"] == told["sequential"]["jobs"]["main"]
    assert told["loky"]["problems"] == []


@fresh
def test_a_flow_runs_on_it_and_says_what_to_install_when_it_is_gone(environment: Environment) -> None:
    assert environment.does("program.py", "make") == f"{ANSWER}\n"
    assert environment.does("program.py", "load") == f"loaded loky 2\n{ANSWER}\n"
    environment.does("-m", "pip", "uninstall", "--quiet", "--yes", "routilux-loky")
    try:
        missed, loaded = environment.run("program.py", "make"), environment.run("program.py", "load")
    finally:
        environment.does("-m", "pip", "install", "--quiet", *environment.folder.glob("wheels/routilux_loky*.whl"))
    told = missed.stderr.splitlines()[-1]
    assert "unknown execution strategy 'loky'" in told
    assert "pip install routilux-loky" in told
    assert "'concurrent'" in told, "it says what there is instead"
    assert missed.returncode != 0
    assert (loaded.returncode, loaded.stdout) == (missed.returncode, "loaded loky 2\n"), "it loads, and does not run"
    assert loaded.stderr.splitlines()[-1] == told


@fresh
def test_a_new_plugin_is_built_installed_found_and_keeps_the_promises(environment: Environment) -> None:
    routilux = environment.python.parent / "routilux"
    made = subprocess.run([routilux, "new", "plugin", "forest"], cwd=environment.folder, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    plugin = environment.folder / "routilux-forest"
    environment.does("-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", plugin / "dist", plugin)
    environment.does("-m", "pip", "install", "--quiet", *plugin.glob("dist/*.whl"))
    tests = environment.does("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", plugin, plugin / "tests")
    assert " passed" in tests
    assert "failed" not in tests


@fresh
def test_the_demo_runs_from_the_wheel_alone(environment: Environment) -> None:
    facts = json.loads(environment.does("-m", "routilux_core", "demo", "--json"))
    assert len(facts["results"]) == 3
    assert facts["problems"] == []


def test_the_example_declares_what_it_says_in_its_readme() -> None:
    entry = (EXAMPLE / "pyproject.toml").read_text("utf-8")
    readme = (EXAMPLE / "README.md").read_text("utf-8")
    line = 'loky = "routilux_loky:LokyStrategy"'
    assert line in entry
    assert line in readme
    for named in ("pyproject.toml", "src/routilux_loky/__init__.py", "tests/test_loky.py"):
        assert (EXAMPLE / named).exists()
        assert f"`{named}`" in readme


def test_the_pool_over_pipes_declares_what_it_is_and_uses_public_names_only() -> None:
    pipes = CHECKOUT / "examples" / "pipes_strategy"
    assert 'pipes = "routilux_pipes:PipesStrategy"' in (pipes / "pyproject.toml").read_text("utf-8")
    readme = (pipes / "README.md").read_text("utf-8")
    for named in ("src/routilux_pipes/__init__.py", "src/routilux_pipes/worker.py", "tests/test_pipes.py"):
        text = (pipes / named).read_text("utf-8")
        assert f"`{named}`" in readme
        assert "routilux_core._" not in text
        assert "routilux_core_plugins" not in text


@fresh
def test_the_web_service_of_the_examples_runs_under_uvicorn(environment: Environment) -> None:
    environment.does("-m", "pip", "install", "--quiet", "uvicorn")
    (environment.folder / "served.py").write_text(SERVED, "utf-8")
    done = environment.run("-W", "error", "served.py", CHECKOUT / "examples")
    assert (done.returncode, done.stdout, done.stderr) == (0, "300 answers of 300\n", "")
