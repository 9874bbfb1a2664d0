"""Runs flows on a Dask cluster: the execution strategy `dask`."""

from routilux_dask._strategy import DaskStrategy

__all__ = ["DaskStrategy"]
