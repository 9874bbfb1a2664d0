"""The core's own table of flows for strategies that share no memory, run by Dask's workers."""

from shipped.same_answers import SameAnswers


class TestSameAnswers(SameAnswers):
    """Under Dask."""
