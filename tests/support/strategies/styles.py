"""The same handlers in other clothes: as coroutines, and as functions that switch greenlets."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import gevent

Handler = Callable[..., Any]


def plain(handler: Handler) -> Handler:
    return handler


def awaiting(handler: Handler) -> Handler:
    """An `async def` that lets others run before and after the handler's work."""

    @functools.wraps(handler)
    async def await_and_call(*args: Any, **kwargs: Any) -> None:
        await asyncio.sleep(0)
        try:
            handler(*args, **kwargs)
        finally:
            await asyncio.sleep(0)

    return await_and_call


def switching(handler: Handler) -> Handler:
    """A function that lets other greenlets run before and after the handler's work."""

    @functools.wraps(handler)
    def switch_and_call(*args: Any, **kwargs: Any) -> None:
        gevent.sleep(0)
        try:
            handler(*args, **kwargs)
        finally:
            gevent.sleep(0)

    return switch_and_call
