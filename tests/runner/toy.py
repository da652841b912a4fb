"""Small methods for the tests of the runner."""

from __future__ import annotations

from pathlib import Path

import torch

from methods.graphnorm.module import GraphClassifier


class Student(GraphClassifier):
    """Starts from the weights of another run."""

    def __init__(self, teacher: Path, **kwargs) -> None:
        super().__init__(**kwargs)
        self.load_state_dict(torch.load(teacher, weights_only=True)["state_dict"])


class Elsewhere(GraphClassifier):
    """For a kind of data that does not exist."""

    tasks = ("mind-reading",)
