"""Compare runs in tables and figures."""
