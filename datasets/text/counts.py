"""Numbers of tokens, for methods that time what a model computes on so many, whatever they say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader


class TokenCounts(LightningDataModule):
    """The test loader yields one number of tokens (int) at a time.

    Args: tokens: the numbers. root, seed, workers: unused.
    """

    task = "matrix-products"

    def __init__(self, tokens: Sequence[int], root: str | Path = "data", seed: int = 0, workers: int = 0) -> None:
        super().__init__()
        if not tokens or min(tokens) < 1:
            raise ValueError(f"dataset.tokens must be one or more positive numbers, got {list(tokens)}")
        self.tokens = [int(count) for count in tokens]

    @property
    def dims(self) -> dict[str, Any]:
        return {}

    def setup(self, stage: str | None = None) -> None:
        """There is nothing to read."""

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.tokens, batch_size=None, collate_fn=int)
