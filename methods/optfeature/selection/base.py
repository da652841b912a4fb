"""Interface of the methods that choose feature interactions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from datasets.files import atomic_write
from methods.optfeature.network import CTRNetwork
from methods.optfeature.pairs import flat_pair_indices, pair_count


class Gates(NamedTuple):
    """Factors of the pair terms, (B, P) or (1, P), and of the embeddings, (B, n); None: all 1."""

    pair: Tensor | None = None
    value: Tensor | None = None


class Selection(nn.Module):
    """Choice of interactions. It is searched together with a predictor, frozen, and used by a predictor trained anew.

    Args:
        field_sizes: number of ids of each field.
        path: file of a frozen selection that another run has written; it takes the place of the search.

    Class attributes:
        searched: whether there is a search; False for choices that follow from data or chance alone.
        alternating: whether the search steps on batches of the validation part, as DARTS does.
        early_stop: whether the search ends when validation stops improving.
        rewind_epoch: epoch of the search whose first weights `init_mode=rewind` goes back to; None: none.
    """

    searched = True
    alternating = False
    early_stop = True
    rewind_epoch: int | None = None
    flat_pairs: Tensor
    frozen: Tensor

    def __init__(self, field_sizes: Sequence[int], path: str | None = None) -> None:
        super().__init__()
        self.field_sizes, self.path = tuple(field_sizes), path
        self.fields, self.values = len(field_sizes), sum(field_sizes)
        self.pairs = pair_count(self.fields)
        self.register_buffer("flat_pairs", flat_pair_indices(self.fields), persistent=False)
        self.register_buffer("frozen", torch.tensor(False))
        self.is_frozen = False

    def check_rewind(self, search_epochs: int) -> None:
        """Raise ValueError if no epoch is named that the retraining can go back to, or one beyond the search.

        Args:
            search_epochs: largest number of epochs of the search.
        """
        if self.rewind_epoch is None:
            raise ValueError(f"method.init_mode=rewind: {type(self).__name__} names no epoch")
        if not 0 <= self.rewind_epoch < search_epochs:
            raise ValueError(
                f"method.selection.rewind_epoch={self.rewind_epoch} is no epoch of the search, which are 0 to "
                f"{search_epochs - 1}: lower it or raise method.search_epochs"
            )

    def check_network(self, network: CTRNetwork) -> None:
        """Raise ValueError if the predictor does not use the gates of this selection.

        Args:
            network: predictor.
        """
        if not network.pair_gates:
            raise ValueError(
                f"{type(self).__name__} chooses pair terms, and {type(network).__name__} has none that can be gated; "
                "choose one of model=ipnn, opnn, fm, fwfm, deepfm"
            )

    def prepare(self, data: Any) -> None:
        """Look at the data before training; most methods need not.

        Args:
            data: DataModule after its set-up.
        """

    def gates(self, ids: Tensor) -> Gates:
        """Return the gates of rows, relaxed during the search and hard after `freeze`; a subclass does it.

        Args:
            ids: global ids, (B, n).
        """
        raise TypeError(f"{type(self).__name__} does not define its gates")

    def optimizers(self) -> list[Optimizer]:
        """Return the optimizers of the search."""
        return []

    def retrained_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that are trained with the predictor after `freeze`."""
        return []

    def penalty(self) -> Tensor | float:
        """Return what is added to the loss of the search."""
        return 0.0

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Adapt to the epoch of the search.

        Args:
            epoch: number of the epoch, from 0.
            epochs: number of epochs of the search.
        """

    def begin_step(self, step: int) -> None:
        """Adapt to the step of the search.

        Args:
            step: number of the step, from 0.
        """

    def freeze(self) -> None:
        """Fix the choice: gates become hard, and the parameters of the search get no more gradients."""
        self.frozen.fill_(True)
        self.set_trainable(frozen=True)

    def set_trainable(self, frozen: bool) -> None:
        """Let gradients reach the parameters of the search or those of the retraining, not both.

        Args:
            frozen: whether the choice is fixed.
        """
        self.is_frozen = frozen
        retrained = {id(parameter) for parameter in self.retrained_parameters()}
        for parameter in self.parameters():
            parameter.requires_grad_((id(parameter) in retrained) == frozen)

    def field_level(self) -> Tensor | None:
        """Return the constant gate of each pair, (P,), or None if gates depend on values."""
        return None

    def check_open(self, rows: Iterable[Tensor]) -> None:
        """Raise ValueError if the frozen selection closes everything.

        Args:
            rows: global ids, (B, n) each, for which gates that depend on values are looked at until one is open.
        """
        level = self.field_level()
        gates: Iterable[Gates] = map(self.gates, rows) if level is None else [Gates(pair=level)]
        if not any(bool((factor != 0).any()) for gate in gates for factor in gate if factor is not None):
            raise ValueError(
                f"{type(self).__name__} closed all pairs in the search, so that nothing is left to retrain: lower the "
                "learning rate or the penalty under method.selection, or search for fewer epochs"
            )

    def value_level_pairs(self) -> Tensor | None:
        """Return which pairs are gated value by value, (P,) bool, or None if the method has no such choice."""
        return None

    def save(self, path: Path, names: Sequence[str], vocabulary: str) -> None:
        """Write the frozen selection to a file.

        Args:
            path: file to write.
            names: names of the fields.
            vocabulary: hash of the vocabulary of the data.
        """
        content = {
            "method": type(self).__name__,
            "fields": list(names),
            "sizes": list(self.field_sizes),
            "vocabulary": vocabulary,
            "state": self.state_dict(),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            torch.save(content, temporary)

    def load(self, path: Path, names: Sequence[str], vocabulary: str) -> None:
        """Read a frozen selection from a file.

        Args:
            path: file that `save` wrote.
            names: names of the fields of the data.
            vocabulary: hash of the vocabulary of the data.

        Raises:
            ValueError: the file is missing or no selection, or one of another method, of other fields, of another
                vocabulary or of other sizes.
        """
        if not path.exists():
            raise ValueError(f"method.selection.path={path} does not exist")
        content = _read(path)
        expected = {
            "method": type(self).__name__,
            "fields": list(names),
            "sizes": list(self.field_sizes),
            "vocabulary": vocabulary,
        }
        for key, value in expected.items():
            if content.get(key) != value:
                raise ValueError(
                    f"method.selection.path={path} was made with another {key}: {_short(content.get(key))}, this run "
                    f"has {_short(value)}"
                )
        found, mine = _shapes(content["state"]), _shapes(self.state_dict())
        if wrong := [name for name in mine | found if mine.get(name) != found.get(name)]:
            raise ValueError(
                f"method.selection.path={path} has {wrong[0]} of shape {found.get(wrong[0])}, this run has "
                f"{mine.get(wrong[0])}: give method.selection the settings of the run that wrote it"
            )
        self.load_state_dict(content["state"])
        self.freeze()


def _read(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises errors of many libraries for files that are not its own
        raise ValueError(
            f"method.selection.path={path} is no selection.pt of a run ({type(error).__name__})"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("state"), dict):
        raise ValueError(f"method.selection.path={path} is no selection.pt of a run")
    return content


def _shapes(state: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value.shape) if isinstance(value, Tensor) else None for name, value in state.items()}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 80 else f"{text[:77]}..."
