"""Marked model of another run, or of the user, and its triggers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from methods.mira.triggers import TriggerSet, load_triggers
from methods.mira.verification import trigger_accuracy


@dataclass(frozen=True)
class Victim:
    """Marked model's triggers and scheme.

    Args:
        triggers: triggers, or None if they are unknown.
        target: class of all triggers, or None.
        marked: whether the model comes from a run of `Embedding`, so that its scheme is known.
    """

    triggers: TriggerSet | None
    target: int | None
    marked: bool

    def check_marked(self, network: nn.Module, least: float) -> None:
        """Raise ValueError if a model gives fewer triggers their label than it must have.

        Args:
            network: the model; one without triggers is not checked.
            least: smallest trigger accuracy, a fraction.
        """
        if self.triggers is None:
            return
        trigger_acc = trigger_accuracy(network, self.triggers)
        if trigger_acc < least:
            raise ValueError(
                f"the model is not marked: trigger accuracy {trigger_acc:.3f}, {least - trigger_acc:.3f} below "
                f"method.min_trigger_acc={least}. An attack on it would mean nothing: train the watermark longer "
                "(vars.epochs), or at another rate (vars.lr)"
            )


def check_source(victim: Path | None, init_from: object) -> None:
    """Raise ValueError unless a model comes from exactly one place.

    Args:
        victim: checkpoint of a marked model of the bench, or None.
        init_from: file of a model of one's own, whose weights the network has already, or None.
    """
    if victim is None and init_from is None:
        raise ValueError("no model is named: init_from=FILE with the weights of a model of one's own")
    if victim is not None and init_from is not None:
        raise ValueError(
            f"init_from={init_from} and the marked model of needs.victim are two models: for one of your own take "
            "method=mira/own_model, or another attack with ~needs.victim"
        )


def load_victim(network: nn.Module, checkpoint: Path | None, trigger_file: str | None) -> Victim:
    """Load the weights of a marked model into a network, and return its triggers.

    Args:
        network: network of the model's architecture; without a checkpoint it has its weights already (`init_from`).
        checkpoint: checkpoint of a run of `Embedding`, or None.
        trigger_file: file of triggers of a model without such a checkpoint, or None.

    Raises:
        ValueError: the checkpoint is of another architecture, or the trigger file is unusable.
    """
    if checkpoint is None:
        triggers = None if trigger_file is None else load_triggers(Path(trigger_file))
        check_triggers(network, triggers)
        return Victim(triggers, None, marked=False)
    state: dict[str, Tensor] = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    weights = {name.removeprefix("network."): value for name, value in state.items() if name.startswith("network.")}
    expected = network.state_dict()
    wrong = [n for n in expected if n not in weights or weights[n].shape != expected[n].shape]
    wrong += [n for n in weights if n not in expected]
    if wrong:
        raise ValueError(
            f"the marked model in {checkpoint} has another architecture than model={type(network).__name__}: "
            f"{', '.join(wrong[:4])}{' ...' if len(wrong) > 4 else ''}; choose its model"
        )
    network.load_state_dict(weights)
    triggers = TriggerSet(*(state[f"trigger_{name}"] for name in TriggerSet._fields))
    target = int(state["target"])
    return Victim(triggers, None if target < 0 else target, marked=True)


def check_triggers(network: nn.Module, triggers: TriggerSet | None) -> None:
    """Raise ValueError if triggers do not fit a network."""
    if triggers is None:
        return
    side, channels, classes = int(network.image_size), int(network.in_channels), int(network.num_classes)  # type: ignore[arg-type]
    if triggers.x.shape[1:] != (channels, side, side) or int(triggers.y.max()) >= classes:
        raise ValueError(
            f"the triggers have images of {tuple(triggers.x.shape[1:])} and labels up to {int(triggers.y.max())}; the "
            f"model takes ({channels}, {side}, {side}) and has {classes} classes"
        )
