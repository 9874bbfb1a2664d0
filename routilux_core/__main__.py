"""Lets `python -m routilux_core` run the command."""

import sys

from routilux_core.cli import main

sys.exit(main())
