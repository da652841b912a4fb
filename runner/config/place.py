"""Place of the config groups. Imports nothing, so that help is printed at once."""

from __future__ import annotations

from pathlib import Path

CONF = Path(__file__).resolve().parents[2] / "conf"
