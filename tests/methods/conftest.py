"""The runner's entry point for the tests of methods."""

from tests.runner.conftest import call, spawn

__all__ = ["call", "spawn"]
