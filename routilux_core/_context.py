"""The old place of `CURRENT`, for programs that look at the engine from outside; the room is `_routines.frame`."""

from routilux_core._routines.frame import CURRENT as CURRENT
