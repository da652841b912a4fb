"""Inputs of the experts of a mixture: the tokens that the router sends to each of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from methods.esparse.description import InputSet, matrix
from methods.esparse.input_statistics import InputStatistics

log = logging.getLogger(__name__)

FEWEST_TOKENS = 128  # below this the statistics of an expert are noise
NAMES_IN_MESSAGE = 5
StatisticsPair = tuple[InputStatistics | None, InputStatistics | None]  # of the first and the second matrix


def expert_inputs(experts: Any, hidden: Tensor, chosen: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Return the inputs of an expert's first and second matrix.

    Args:
        experts: module of experts of transformers.
        hidden: (T, d) hidden states of all tokens.
        chosen: (T, k) numbers of the experts that each token is sent to.
        number: number of the expert.

    Returns:
        (t, d) and (t, inner) for the t tokens that reach the expert.
    """
    x = hidden.reshape(-1, hidden.shape[-1])[(chosen.reshape(-1, chosen.shape[-1]) == number).any(1)]
    first = "gate_up_proj" if experts.has_gate else "up_proj"
    bias = getattr(experts, f"{first}_bias")[number] if experts.has_bias else None
    inner = linear(x, matrix(experts, f"{first}[{number}]"), bias)
    return x, experts._apply_gate(inner) if experts.has_gate else experts.act_fn(inner)


@contextmanager
def record_experts(
    experts: Any, statistics: Mapping[int, tuple[InputStatistics | None, InputStatistics | None]]
) -> Iterator[None]:
    """Add the inputs of experts to their statistics while the context is open.

    Args:
        experts: module of experts of transformers.
        statistics: statistics of the input of the first and the second matrix, by the number of the expert.
    """

    def record(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden, chosen = (*args, *kwargs.values())[:2]
        for number, pair in statistics.items():
            for gathered, x in zip(pair, expert_inputs(module, hidden, chosen, number), strict=True):
                if gathered is not None and len(x):
                    gathered.add(x)

    handle = experts.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def add_neutral_inputs(statistics: InputStatistics, columns: int, device: torch.device) -> None:
    """Give equal inputs on all channels to an expert that no token has reached, so that it is pruned by magnitude."""
    if "hessian" in statistics.required.kinds:
        statistics.add(torch.eye(columns, device=device))
    else:
        statistics.add(torch.ones(2, columns, device=device))


@dataclass
class ExpertTokens:
    """Calibration tokens that reached each expert.

    Args:
        counts: number of tokens, by the number of the block and the name of the set.
    """

    counts: dict[tuple[int, str], int] = field(default_factory=dict)

    def add(self, block: int, sets: Iterable[InputSet], statistics: Mapping[str, InputStatistics]) -> None:
        """Keep the numbers of tokens of a block's experts."""
        for s in sets:
            if s.experts is not None:
                gathered = statistics[s.name]
                self.counts[block, s.name] = gathered.tokens if gathered.reached else 0

    def warn(self) -> None:
        """Warn of experts that too few tokens have reached."""
        firsts = {key: count for key, count in self.counts.items() if not key[1].endswith("_out")}
        few = [f"{name} of block {block}: {n}" for (block, name), n in firsts.items() if n < FEWEST_TOKENS]
        if few:
            log.warning(
                "%d of %d experts were reached by fewer than %d calibration tokens (%s%s): their scores are noise, and "
                "where no token came they are pruned by magnitude. Calibrate with more windows",
                len(few),
                len(firsts),
                FEWEST_TOKENS,
                ", ".join(few[:NAMES_IN_MESSAGE]),
                ", ..." * (len(few) > NAMES_IN_MESSAGE),
            )
