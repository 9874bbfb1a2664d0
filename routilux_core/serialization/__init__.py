"""A flow or a job as plain JSON types, and back."""

from routilux_core.serialization.files import read_file, write_file
from routilux_core.serialization.flows import flow_from_dict, flow_to_dict, job_from_dict
from routilux_core.serialization.jobs import job_to_dict
from routilux_core.serialization.problems import collector_paused

__all__ = [
    "collector_paused",
    "flow_from_dict",
    "flow_to_dict",
    "job_from_dict",
    "job_to_dict",
    "read_file",
    "write_file",
]
