"""Run many runs and report their status."""
