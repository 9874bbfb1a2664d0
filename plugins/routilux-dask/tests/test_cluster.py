"""How flows find a cluster, use it, and leave it."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from dask.distributed import Client
from dask_flows import appeared, build, finished
from dask_routines import Keeps, Loose, Waits, WhoAmI, Work, kept_keys, kept_pools
from routilux_dask import _remote

from routilux_core import ConfigurationError, Flow, ShippingError, StrategyError
from shipped.routines import Sum, UsesClient

MakeFlow = Callable[..., Flow]
SECONDS = 60.0


def test_it_is_found_by_its_name_and_checks_its_options() -> None:
    with pytest.raises(ConfigurationError, match="address"):
        Flow(execution_strategy="dask", strategy_options={"address": 8786})
    with pytest.raises(ConfigurationError, match="time limit"):
        Flow(execution_strategy="dask", strategy_options={"silence_timeout": 0})
    with pytest.raises(ConfigurationError, match="time limit"):
        Flow(execution_strategy="dask", strategy_options={"connect_timeout": float("nan")})
    with pytest.raises(ConfigurationError, match="adress"):
        Flow(execution_strategy="dask", strategy_options={"adress": "tcp://127.0.0.1:1"})


# -- what is in the way


def test_an_address_where_nobody_listens_is_said(make_flow: MakeFlow) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    options = {"address": address, "connect_timeout": 0.5}
    flow = build(make_flow("f", execution_strategy="dask", strategy_options=options), Work())
    with pytest.raises(StrategyError, match=rf"no Dask scheduler could be reached at .*{address}.*dask scheduler"):
        flow.execute("source", {"count": 1})


def test_a_scheduler_without_workers_is_said(make_flow: MakeFlow, make_cluster: Any) -> None:
    flow = build(make_flow("f", **make_cluster(0).settings(connect_timeout=1.0)), Work())
    with pytest.raises(StrategyError, match=r"has no workers.*dask worker tcp://127"):
        flow.execute("source", {"count": 1})


def test_a_worker_with_another_version_is_said(make_flow: MakeFlow, make_cluster: Any, tmp_path: Path) -> None:
    other = tmp_path / "other" / "routilux_core-99.0.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: routilux-core\nVersion: 99.0\n")
    cluster = make_cluster(0)
    cluster.add_worker("--no-nanny", first=str(other.parent))
    flow = build(make_flow("f", **cluster.settings()), Work())
    with pytest.raises(StrategyError, match=r"worker tcp://\S+ has routilux-core 99.0, and here it is"):
        flow.execute("source", {"count": 1})


def test_a_worker_that_lacks_the_package_is_said(make_flow: MakeFlow, make_cluster: Any, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    for each in Path(sysconfig.get_path("purelib")).iterdir():
        if "routilux" not in each.name and each.suffix != ".pth":
            (site / each.name).symlink_to(each)
    cluster = make_cluster(0)
    program = ("-S", "-c", "import sys; from distributed.cli.dask_worker import main; main(sys.argv[1:])")
    cluster.add_worker("--no-nanny", program=program, first=str(site))
    flow = build(make_flow("f", **cluster.settings()), Work())
    with pytest.raises(StrategyError, match="lacks routilux-core: run `pip install routilux-core=="):
        flow.execute("source", {"count": 1})


def test_a_worker_that_comes_while_the_pool_is_closed_keeps_nothing(
    make_flow: MakeFlow, make_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, greets, run = threading.Event(), _remote.hello, Client.run

    def slow_run(client: Client, function: Any, *arguments: Any, **settings: Any) -> Any:
        answer = run(client, function, *arguments, **settings)
        return late(answer) if function is greets else answer

    async def late(answer: Any) -> Any:
        found = await answer
        said.set()
        await asyncio.sleep(SECONDS)
        return found

    cluster = make_cluster(1)
    flow = build(make_flow("f", **cluster.settings()), Work())
    finished(flow.execute("source", {"count": 1}))
    monkeypatch.setattr(Client, "run", slow_run)
    cluster.add_worker()
    assert said.wait(SECONDS)
    flow.shutdown()
    monkeypatch.undo()
    with Client(cluster.address, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=SECONDS)
        assert list(client.run(kept_pools).values()) == [[], []]


def test_a_late_worker_is_used(make_flow: MakeFlow, make_cluster: Any, tmp_path: Path) -> None:
    cluster = make_cluster(1)
    who = WhoAmI(folder=str(tmp_path / "met"), together=2)
    (tmp_path / "met").mkdir()
    flow = build(make_flow("f", **cluster.settings()), who)
    flow.add_output("work", "done")
    job = flow.execute("source", {"count": 2})
    appeared(tmp_path / "met" / "0")
    cluster.add_worker()
    finished(job)
    assert len({each["pid"] for each in job.outputs["work.done"]}) == 2


# -- work


def test_what_cant_be_sent_home_fails_by_name_and_the_rest_goes_on(make_flow: MakeFlow, shipped: Any) -> None:
    flow = build(make_flow("f", **shipped, error_handler="continue"), Loose())
    flow.add_routine(Keeps(), "keeps")
    flow.connect("work", "out", "keeps", "value")
    job = finished(flow.execute("source", {"count": 3}))
    (failure,) = job.errors
    assert isinstance(failure.exception, ShippingError)
    assert "key 'value'" in str(failure.exception)
    assert sorted(flow.routines["keeps"].values) == [0, 2]


def test_max_workers_bounds_what_runs_at_a_time(make_flow: MakeFlow, cluster: Any, tmp_path: Path) -> None:
    waits = Waits(began=str(tmp_path / "began"), go=str(tmp_path / "go"))
    flow = build(make_flow("f", **cluster.settings(), max_workers=1), waits)
    flow.add_output("work", "done")
    job = flow.execute("source", {"count": 4})
    appeared(tmp_path / "began0")
    assert not list(tmp_path.glob("began[123]"))
    (tmp_path / "go").touch()
    finished(job)
    assert len(job.outputs["work.done"]) == 4


def test_jobs_run_at_once_and_nothing_stays_on_the_cluster(make_flow: MakeFlow, cluster: Any) -> None:
    flow = make_flow("f", **cluster.settings())
    build(flow, Sum())
    jobs = [flow.execute("source", {"count": count}) for count in (30, 50, 20)]
    for job in jobs:
        finished(job)
    assert flow.routines["work"].total == sum(sum(range(count)) for count in (30, 50, 20))
    with Client(cluster.address, set_as_default=False) as client:
        left = client.run_on_scheduler(kept_keys)
        for _ in range(100):
            if not left:
                break
            left = client.run_on_scheduler(kept_keys)
    assert not left


# -- the end


def test_cancel_reaches_a_handler_that_runs_and_takes_back_what_does_not(
    make_flow: MakeFlow, shipped: Any, tmp_path: Path
) -> None:
    waits = Waits(began=str(tmp_path / "began"), go=str(tmp_path / "go"))
    flow = build(make_flow("f", **shipped), waits)
    job = flow.execute("source", {"count": 30})
    appeared(tmp_path / "began0")
    appeared(tmp_path / "began1")
    job.cancel()
    finished(job)
    assert job.status == "cancelled"
    assert job.ledger.discarded >= 26
    again = build(make_flow("g", **shipped), Work(seconds=0.0))
    assert finished(again.execute("source", {"count": 5})).status == "completed"


def test_a_private_cluster_ends_with_its_flow(make_flow: MakeFlow, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("SHIPPED_CLOSED", str(tmp_path / "closed"))
    before = {each.pid for each in psutil.Process().children(recursive=True)}
    flow = make_flow("f", execution_strategy="dask", max_workers=2)
    flow.add_routine(UsesClient(), "uses")
    flow.add_output("uses", "used")
    job = finished(flow.execute("uses"))
    (made,) = job.outputs["uses.used"]
    assert made["made_by"][0] != os.getpid()
    listening = [
        each for each in psutil.net_connections() if each.status == "LISTEN" and each.pid == made["made_by"][0]
    ]
    assert {each.laddr.ip for each in listening} == {"127.0.0.1"}
    flow.shutdown()
    assert (tmp_path / "closed").read_text().split()[0] == str(made["made_by"][0])
    workers = [each for each in psutil.Process().children(recursive=True) if each.pid not in before]
    assert not [each for each in workers if "spawn_main" in " ".join(each.cmdline())]
    flow.shutdown()
    assert finished(flow.execute("uses")).status == "completed"


def test_the_loader_does_not_import_dask() -> None:
    program = (
        "import sys, routilux_core as r; r.Flow(execution_strategy='dask'); assert 'distributed' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_flow_is_not_stuck_behind_another_one_s_calls(make_flow: MakeFlow, cluster: Any, tmp_path: Path) -> None:
    waits = Waits(began=str(tmp_path / "began"), go=str(tmp_path / "go"))
    busy = build(make_flow("f", **cluster.settings(), max_workers=1), waits)
    job = busy.execute("source", {"count": 1})
    appeared(tmp_path / "began0")
    for name in ("g", "h"):
        other = build(make_flow(name, **cluster.settings(), max_workers=1), Work(seconds=0.0))
        assert finished(other.execute("source", {"count": 3})).status == "completed"
    (tmp_path / "go").touch()
    finished(job)


def test_what_a_shared_worker_made_is_closed_with_the_last_flow(
    make_flow: MakeFlow, make_cluster: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    closed = tmp_path / "closed"
    monkeypatch.setenv("SHIPPED_CLOSED", str(closed))
    cluster = make_cluster(1)
    flows = [make_flow(name, **cluster.settings()) for name in ("f", "g")]
    for flow in flows:
        flow.add_routine(UsesClient(), "uses")
        finished(flow.execute("uses"))
    flows[0].shutdown()
    assert not closed.exists()
    flows[1].shutdown()
    assert closed.exists()
