"""Whole programs that use the process pool: how they start, and that nothing is left of them when they end."""

from __future__ import annotations

import os
import subprocess
import sys
import zipapp
from pathlib import Path
from textwrap import dedent

import pytest

from processes.programs import GRACE, HELLO, LATE, PRELUDE, ended, guarded, run, start

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return tmp_path / "program.py"


def test_a_script_runs_and_leaves_nothing(script: Path) -> None:
    assert run(script, guarded(HELLO)) == (0, "[{'n': 7}]\n", "")


@pytest.mark.once
def test_a_program_on_the_command_line_works(tmp_path: Path) -> None:
    (tmp_path / "lib.py").write_text(PRELUDE)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom lib import *\n{dedent(HELLO)}"
    assert ended(start("-c", code)) == (0, "[{'n': 7}]\n", "")


def test_a_program_from_stdin_works(tmp_path: Path) -> None:
    (tmp_path / "lib.py").write_text(PRELUDE)
    source = tmp_path / "piped"
    source.write_text(f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom lib import *\n{dedent(HELLO)}")
    with source.open() as stdin:
        assert ended(start(stdin=stdin)) == (0, "[{'n': 7}]\n", "")


TYPED_IN = """
import sys
{block}
from routilux_core import Flow, Routine, event, slot

def make(base):
    class Local(base, stateless=True):
        done = event("n")
        @slot
        def input(self, n):
            self.emit("done", n=self.twice(n))
    return Local()

class Base(Routine):
    def twice(self, n):
        return 2 * n

with Flow(execution_strategy="process", max_workers=1) as flow:
    flow.add_routine(make(Base), "local")
    flow.add_output("local", "done")
    job = flow.run("local", {{"n": 21}})
    job.raise_for_errors()
    print(job.outputs["local.done"])
"""


@pytest.mark.once
def test_a_local_class_of_a_class_typed_in_works_with_cloudpickle() -> None:
    assert ended(start("-c", TYPED_IN.format(block=""))) == (0, "[{'n': 42}]\n", "")


@pytest.mark.once
def test_without_cloudpickle_a_class_typed_in_is_refused_and_it_is_said_what_to_do() -> None:
    code, out, err = ended(start("-c", TYPED_IN.format(block="sys.modules['cloudpickle'] = None")))
    assert (code, out) == (1, "")
    last = err.strip().splitlines()[-1]
    assert "routine 'local': its class (make.<locals>.Local) can't be sent to a worker process" in last
    assert "install routilux-core[cloudpickle], or move it to a module that the worker can import" in last


APPLICATION = """
import sys
sys.modules["cloudpickle"] = None
from routilux_core import Flow, Routine, ShippingError, event, slot

class Work(Routine, stateless=True):
    done = event("n")
    @slot
    def input(self, n):
        self.emit("done", n=2 * n)

if __name__ == "__main__":
    with Flow(execution_strategy="process", max_workers=1) as flow:
        flow.add_routine(Work(), "work")
        flow.add_output("work", "done")
        try:
            print(flow.run("work", {"n": 21}).outputs["work.done"])
        except ShippingError as error:
            print(error)
"""


@pytest.mark.once
@pytest.mark.parametrize("how", ["package", "folder", "archive", "stdin"])
def test_a_main_module_that_workers_never_import_is_refused_before_the_run(tmp_path: Path, how: str) -> None:
    application = tmp_path / "application"
    application.mkdir()
    (application / "__init__.py").touch()
    (application / "__main__.py").write_text(APPLICATION)
    zipapp.create_archive(application, tmp_path / "application.pyz")
    with (application / "__main__.py").open() as source:
        stdin = source if how == "stdin" else subprocess.DEVNULL
        command = {"package": ["-m", "application"], "stdin": [], "archive": ["application.pyz"]}.get(
            how, ["application"]
        )
        code, out, err = ended(start(*command, cwd=tmp_path, stdin=stdin))
    assert (code, err) == (0, "")
    assert "Work is defined in __main__, which a worker process can't import" in out
    assert "install routilux-core[cloudpickle], or move it to a module that the worker can import" in out


@pytest.mark.once
def test_a_module_of_an_archive_or_a_package_works(tmp_path: Path) -> None:
    application = tmp_path / "application"
    application.mkdir()
    (application / "program.py").write_text(APPLICATION.replace('if __name__ == "__main__":', "def main():"))
    (application / "__main__.py").write_text("import program\n\nif __name__ == '__main__':\n    program.main()\n")
    zipapp.create_archive(application, tmp_path / "application.pyz")
    for name in ("application.pyz", "application"):
        assert ended(start(name, cwd=tmp_path)) == (0, "[{'n': 42}]\n", "")


def test_a_module_run_with_m_works(tmp_path: Path) -> None:
    (tmp_path / "tool.py").write_text(guarded(HELLO))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert ended(start("-m", "tool", env=environment)) == (0, "[{'n': 7}]\n", "")


@pytest.mark.once
def test_an_interpreter_that_finds_its_packages_by_itself_only_passes_that_on(script: Path) -> None:
    outside = Path(sys.executable).resolve()  # of a virtual environment: the interpreter that it was made from
    script.write_text(f"import sys\nif __name__ == '__main__':\n    sys.path[:] = {sys.path!r}\n{guarded(HELLO)}")
    assert ended(start("-I", script, python=outside)) == (0, "[{'n': 7}]\n", "")


@pytest.mark.once
def test_a_flow_runs_in_a_daemon_thread(script: Path) -> None:
    body = """
    def work():
        with make() as flow:
            print(answer(flow, 7))
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join()
"""
    assert run(script, guarded(body)) == (0, "[{'n': 7}]\n", "")


@pytest.mark.once
def test_what_handlers_print_arrives(script: Path) -> None:
    body = """
    with make() as flow:
        flow.run("work", {"n": 1, "said": "from a worker"})
"""
    assert run(script, guarded(body)) == (0, "from a worker\n", "")


@pytest.mark.once
@pytest.mark.parametrize(
    ("broken", "reason", "patience"),
    [
        ("answer(make(), 1)", "starts workers again", 60),
        ("if IN_WORKER: raise ImportError('only in workers')", "exit code 1", 60),
        ("if IN_WORKER: sys.exit(0)", "exit code 0", 60),
        ("if IN_WORKER: threading.Event().wait()", "not ready after", 0.5),
        ("if IN_WORKER: os.kill(os.getpid(), signal.SIGSTOP)", "not ready after", 0.5),
    ],
    ids=["no guard", "fails to import", "exits", "hangs", "stands still"],
)
def test_a_main_module_that_workers_cant_import_is_named(
    script: Path, broken: str, reason: str, patience: float
) -> None:
    body = f"""
    make(start_timeout={patience}).run("work", {{"n": 1}})
"""
    code, out, err = run(script, f"{PRELUDE}\n{broken}\n\nif __name__ == '__main__':{body}")
    assert (code, out) == (1, "")
    assert "StrategyError" in err
    assert reason in err
    assert "if __name__ == '__main__':" in err
    assert str(script) in err
    if broken.startswith("answer"):
        assert err.count("Traceback") == err.count("Error") - err.count("raise StrategyError") == 1  # the program's own


@pytest.mark.once
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_module_that_runs_a_flow_when_the_main_module_imports_it_is_found_in_the_worker(
    script: Path, method: str
) -> None:
    (script.parent / "steps.py").write_text(f"{PRELUDE}\nprint(answer(make(start_method={method!r}), 1))\n")
    code, out, err = run(script, "import steps\n\nif __name__ == '__main__':\n    print('never')\n")
    assert (code, out) == (1, "")
    assert err.strip().splitlines()[-1].startswith("routilux_core.errors.StrategyError: strategy 'process' could not")
    assert "or a module that it imports, starts workers again" in err
    assert err.count("Traceback") == 1


RUNS_AT_IMPORT = """
import os
import routilux_core
print("imported", flush=True)
if int(os.environ.setdefault("DEPTH", "0")) > 3: os._exit(9)  # this test stops it; without, it would go on
os.environ["DEPTH"] = str(int(os.environ["DEPTH"]) + 1)
{before}
with routilux_core.Flow(execution_strategy="process", max_workers=1) as flow:
    flow.add_routine(Work(), "work")
    job = flow.execute("work", {{"n": 1, "said": ""}})
    job.wait(20)
"""


@pytest.mark.once
def test_a_module_that_runs_a_flow_of_its_own_routines_when_it_is_imported_is_named(script: Path) -> None:
    (script.parent / "steps.py").write_text(f"{PRELUDE}\n{RUNS_AT_IMPORT.format(before='')}")
    code, out, _ = run(script, guarded("    import steps; print(steps.job.status, steps.job.errors[0].exception)"))
    assert code == 0
    imported, ended = out.splitlines()
    assert (imported, ended[:46]) == ("imported", "failed routine 'work': module 'steps' runs a f")
    assert "move what runs the flow into a function" in ended


@pytest.mark.once
def test_a_module_that_a_worker_imports_later_and_that_runs_a_flow_is_named_there(script: Path) -> None:
    package = script.parent / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "parts.py").write_text(f"{PRELUDE}\nimport package.steps\n")  # in the worker it is imported first
    (package / "steps.py").write_text(RUNS_AT_IMPORT.format(before="from package.work import Work"))
    (package / "work.py").write_text(f"{PRELUDE}\nclass Work(Work, stateless=True):\n    pass\n")
    body = """
    from package.work import Work
    class_of = lambda: None
    flow = Flow(execution_strategy="process", max_workers=1)
    class_name = "parts"
    import types
    parts = types.ModuleType("package.parts")
    class Late(Work, stateless=True):
        pass
    Late.__module__, Late.__qualname__ = "package.parts", "Late"
    parts.Late = Late
    sys.modules["package.parts"] = parts
    flow.add_routine(Late(), "late")
    job = flow.run("late", {"n": 1})
    print(job.status, job.errors[0].exception)
    flow.shutdown()
"""
    code, out, _ = run(script, guarded(body))
    assert code == 0
    assert [line for line in out.splitlines() if line == "imported"] == ["imported"]
    assert "was to start workers in a worker process, which is importing module 'package.steps'" in out


@pytest.mark.once
def test_functions_of_a_program_without_a_guard_are_told_by_the_parent_alone(script: Path) -> None:
    code, _, errors = run(
        script,
        """
from routilux_core import Flow

def letters(name):
    return len(name)

flow = Flow(execution_strategy="process", max_workers=2)
flow.add(letters)
flow.run("letters", {"name": "Oslo"})
""",
    )
    assert code == 1
    assert errors.count("Traceback") == 1
    assert "put what starts the program behind `if __name__ == '__main__':`" in errors.splitlines()[-1]


def test_a_fork_of_the_program_leaves_the_pool_alone(script: Path) -> None:
    body = """
    import warnings
    flow = make()
    print(answer(flow, 7), flush=True)
    warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of a fork beside threads, which is meant
    child = os.fork()
    if child == 0:
        sys.exit(5)  # through all the exit handlers
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(answer(flow, 8))
    flow.shutdown()
"""
    assert run(script, guarded(body)) == (0, "[{'n': 7}]\n5\n[{'n': 8}]\n", "")


def test_a_fork_of_the_program_has_workers_of_its_own(script: Path) -> None:
    body = """
    import warnings
    flow = make()
    answer(flow, 7)
    warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of a fork beside threads, which is meant
    child = os.fork()
    if child == 0:
        print(answer(flow, 8), flush=True)
        flow.shutdown()
        sys.exit(0)
    os.waitpid(child, 0)
    print(answer(flow, 9))
    flow.shutdown()
"""
    assert run(script, guarded(body)) == (0, "[{'n': 8}]\n[{'n': 9}]\n", "")


def test_a_program_that_forgets_to_shut_down_ends(script: Path) -> None:
    assert run(script, guarded("    flow = make()\n    print(answer(flow, 7))\n")) == (0, "[{'n': 7}]\n", "")


def test_a_program_that_ends_while_its_handlers_run_ends_after_the_grace(script: Path) -> None:
    body = """
    flow = make()
    job = flow.execute("work", {"n": 1, "seconds": 60})
"""
    script.write_text(guarded(body))
    code, _out, err = ended(start(script), within=GRACE + LATE)
    assert code == 0
    assert "the interpreter exits while 1 jobs run" in err
    assert "Traceback" not in err


@pytest.mark.once
def test_a_daemonic_process_is_told_why_it_gets_no_pool(script: Path) -> None:
    body = """
    child = multiprocessing.get_context("spawn").Process(target=work, daemon=True)
    child.start()
    child.join()
"""
    work = """
def work():
    try:
        make().execute("work", {"n": 1})
    except Exception as error:
        print(error, flush=True)
"""
    code, out, err = run(script, f"{PRELUDE}{work}\nif __name__ == '__main__':\n{body}")
    assert (code, err) == (0, "")
    assert "daemonic processes are not allowed to have children. Let this flow run under 'concurrent'" in out


def test_a_pool_of_a_child_of_multiprocessing_ends_with_it(script: Path) -> None:
    body = """
    child = multiprocessing.get_context("spawn").Process(target=work)
    child.start()
    child.join()
    print(child.exitcode)
"""
    work = "\ndef work():\n    flow = make()\n    print(answer(flow, 7), flush=True)\n"
    code, out, err = run(script, f"{PRELUDE}{work}\nif __name__ == '__main__':\n{body}")
    assert (code, out, err) == (0, "[{'n': 7}]\n0\n", "")
