"""The workloads, in the order of the report. A new one is a module with a `WORKLOAD` and a line here."""

from suite import (
    w1_demo,
    w2_chain,
    w3_stream,
    w3b_second_hop,
    w4_fan,
    w5_sleep,
    w6_cpu,
    w7_tiny,
    w8_cold,
    w9_memory,
    w10_growth,
    w11_saving,
    w12_hooks,
    w14_dask,
    w15_journal,
    w16_await,
    w17_arrays,
)
from suite.model import Workload

WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        w1_demo.WORKLOAD,
        w2_chain.WORKLOAD,
        w3_stream.WORKLOAD,
        w3b_second_hop.WORKLOAD,
        w4_fan.WORKLOAD,
        w5_sleep.WORKLOAD,
        w6_cpu.WORKLOAD,
        w7_tiny.WORKLOAD,
        w8_cold.WORKLOAD,
        w9_memory.WORKLOAD,
        w10_growth.WORKLOAD,
        w11_saving.WORKLOAD,
        w12_hooks.WORKLOAD,
        w14_dask.WORKLOAD,
        w15_journal.WORKLOAD,
        w16_await.WORKLOAD,
        w17_arrays.WORKLOAD,
    )
}
