"""A flow or a job as plain JSON types, and back.

`schema` has the saved form as records. One converter (cattrs) reads and writes them, with hooks for policies, for
enums, for types of exceptions by their names, and for each kind of value that JSON does not have and that holds no
others (`kinds`). It reads strictly: no other types, no unknown keys. By hand stays what a converter can't know or would
make too slow:

- **Paths of problems.** All that is wrong is told at once, each with its path: `converter` makes them of cattrs'
  errors. Writing and values have none there, so `values` carries the path of each element along.
- **No import, nothing that code is made of.** A name in a file stands for a class that is already there, and only for
  one of those that `type_lookup` allows for this loading. The converter is one for the process, and made before any
  loading.
- **Bounds.** Levels of values inside each other, sizes of integers, elements of one hash, problems that are told.
- **Annotations of a user's own fields** (`fields`, `annotations`): a value is saved if it fits, and is never converted.
- **Routines and connections**, when they are written: a flow has thousands, and a call for each of their parts would
  cost more than all else (G13 in the benchmarks). What the routines of a class have in common is written by the
  converter once.
"""

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
