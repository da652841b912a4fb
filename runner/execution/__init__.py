"""Execute a run and record its result."""
