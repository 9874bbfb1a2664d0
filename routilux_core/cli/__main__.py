"""Lets `python -m routilux_core.cli` run the command."""

import sys

from routilux_core.cli import main

sys.exit(main())
