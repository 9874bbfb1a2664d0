"""JSON without blanks, and without what JSON has no words for."""

from __future__ import annotations

import json

quoted = json.encoder.encode_basestring_ascii  # one text
compact = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode  # anything
