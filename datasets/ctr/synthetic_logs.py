"""DataModule of generated click logs with planted interactions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from datasets.checks import check_not_negative, check_positive, check_seed
from datasets.ctr.datamodule import CTRDataModule
from datasets.ctr.loader import Shard
from datasets.ctr.manifest import address
from datasets.ctr.splits import PARTS, random_split
from datasets.ctr.synthetic import generate


class SyntheticLogs(CTRDataModule):
    """Embedded click log with planted interactions, split 8:1:1 at random; yields `CTRBatch`, needs no files.

    Args:
        rows: number of rows of all parts together.
        cardinalities: number of values of each field.
        field_pairs: pairs of fields that interact for all values.
        value_pairs: pairs of fields that interact for some values of the first field only, which half of the rows have.
        exponent: exponent of the Zipf law of the values.
        main_effect: standard deviation of the effect of a value, in logits.
        pair_effect: standard deviation of the effect of a pair, in logits.
        data_seed: seed of the log; it does not follow the seed of the run, so that runs share the data.
    """

    def __init__(
        self,
        rows: int = 60_000,
        cardinalities: Sequence[int] = (50, 40, 30, 20, 20, 10, 10, 5),
        field_pairs: int = 4,
        value_pairs: int = 3,
        exponent: float = 0.7,
        main_effect: float = 0.3,
        pair_effect: float = 1.0,
        data_seed: int = 0,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        check_positive("dataset", rows=rows)
        check_not_negative("dataset", field_pairs=field_pairs, value_pairs=value_pairs, exponent=exponent)
        check_seed("dataset", data_seed=data_seed)
        if min(cardinalities, default=0) < 2 or len(cardinalities) < 2:
            raise ValueError("dataset.cardinalities must name two fields or more, each with two values or more")
        self.rows, self.cardinalities = rows, tuple(cardinalities)
        self.options: dict[str, Any] = {
            "field_pairs": field_pairs,
            "value_pairs": value_pairs,
            "exponent": exponent,
            "main_effect": main_effect,
            "pair_effect": pair_effect,
            "seed": data_seed,
        }

    def load(self) -> None:
        """Generate the log."""
        log = generate(self.rows, self.cardinalities, **self.options)
        offsets = np.cumsum([0, *log.sizes[:-1]]).astype(np.int32)
        ids, labels = torch.from_numpy(log.ids + offsets), torch.from_numpy(log.labels)
        parts = torch.from_numpy(random_split(self.rows))
        self.shards = {part: [Shard(ids[parts == n], labels[parts == n])] for n, part in enumerate(PARTS)}
        self.names, self.sizes = [f"f{i}" for i in range(len(log.sizes))], list(log.sizes)
        self.vocabulary = address([self.rows, self.cardinalities, self.options])
        self.planted = log.planted
