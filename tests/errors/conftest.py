"""Worker processes import the routines of these tests by name: the parent's path goes along with them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
