"""The runner's entry point for the tests of training on noisy labels."""

from tests.runner.conftest import call, spawn

__all__ = ["call", "spawn"]
