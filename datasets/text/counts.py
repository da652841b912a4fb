"""Numbers of tokens, for methods that time matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader


class TokenCounts(LightningDataModule):
    """Numbers of tokens. The test loader yields one number (int) at a time.

    Args:
        tokens: numbers of tokens.
        root: unused.
        seed: unused.
        workers: unused.

    Raises:
        ValueError: if there are no numbers, or one is not positive.
    """

    task = "matrix-products"

    def __init__(self, tokens: Sequence[int], root: str | Path = "data", seed: int = 0, workers: int = 0) -> None:
        super().__init__()
        if not tokens or min(tokens) < 1:
            raise ValueError(f"dataset.tokens must be one or more positive numbers, got {list(tokens)}")
        self.tokens = [int(count) for count in tokens]

    @property
    def dims(self) -> dict[str, Any]:
        """Nothing: the model does not depend on the data."""
        return {}

    def setup(self, stage: str | None = None) -> None:
        """Do nothing: there is nothing to read."""

    def test_dataloader(self) -> DataLoader[int]:
        """Return a loader of one number at a time."""
        tokens: Any = self.tokens  # a list is a map-style data set
        return DataLoader(tokens, batch_size=None, collate_fn=_as_int)


def _as_int(count: Any) -> int:
    return int(count)
