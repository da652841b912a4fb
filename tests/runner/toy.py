"""Small methods and models for the tests of the runner."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from methods.graphnorm.module import GraphClassifier


class Student(GraphClassifier):
    """Starts from the weights of another run."""

    def __init__(self, teacher: Path, **kwargs) -> None:
        super().__init__(**kwargs)
        self.load_state_dict(torch.load(teacher, weights_only=True)["state_dict"])


class Elsewhere(GraphClassifier):
    """For a kind of data that does not exist."""

    tasks = ("mind-reading",)


class Plain(nn.Module):
    """Knows the size of a graph alone."""

    tasks = ("graph-classification",)

    def __init__(self, in_channels: int, out_channels: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, hidden), nn.ReLU(), nn.Linear(hidden, out_channels))

    def forward(self, graphs) -> Tensor:
        return self.layers(graphs.sizes.float().unsqueeze(1))
