"""Early exits (BranchyNet, Teerapittayanon et al. 2016, arXiv 1709.01686): easy images leave the network early."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from datasets.checks import check_fraction, check_positive
from methods.architectures.cifar_resnet import CifarResNet
from methods.architectures.convnet import ConvNet
from methods.architectures.resnet import ResNet
from methods.compression.macs import count_macs
from methods.compression.stage import EXITS, FLOAT, Context, Stage
from methods.compression.training import Recipe

THRESHOLDS = (1e-4, 1e-3, 5e-3, 0.01, 0.05, 0.1, 0.2, 0.5, 0.75, 1.0, 5.0, 10.0)


class Normalize(nn.Module):
    """Subtract the mean and divide by the standard deviation of each channel.

    Args:
        mean: (C, 1, 1).
        std: (C, 1, 1).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clone())

    def forward(self, x: Tensor) -> Tensor:
        """Return normalised images."""
        return (x - self.mean) / self.std


class GlobalAverage(nn.Module):
    """Mean over height and width, (B, C, H, W) -> (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the means."""
        return x.mean((2, 3))


def segments(network: Any) -> list[nn.Sequential]:
    """Return a network as a sequence of parts, each up to the end of a resolution, the last with the head.

    Raises:
        ValueError: the network is none of CifarResNet, ResNet, ConvNet.
    """
    start: list[nn.Module] = [Normalize(network.mean, network.std)] if getattr(network, "normalize", False) else []
    end = [GlobalAverage(), network.head] if hasattr(network, "head") else []
    if isinstance(network, CifarResNet | ResNet):
        parts = [[stage] for stage in network.stages]
        start += [network.conv, network.bn, nn.ReLU()]
    elif isinstance(network, ConvNet):
        layers = list(network.layers)
        parts = [layers[i : i + 3] for i in range(0, len(layers), 3)]  # type: ignore[misc]
    else:
        raise ValueError(f"early_exit cuts CifarResNet, ResNet and ConvNet into parts, not {type(network).__name__}")
    parts[0] = [*start, *parts[0]]  # type: ignore[list-item]
    parts[-1] = [*parts[-1], *end]  # type: ignore[list-item]
    return [nn.Sequential(*part) for part in parts]


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy of softmax(logits) in nats: (B, K) -> (B,)."""
    log_p = logits.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


class EarlyExitNetwork(nn.Module):
    """Network in parts with a classifier after each but the last, which is its own.

    Args:
        parts: parts of the network.
        exits: classifiers of the outputs of all parts but the last.
        thresholds: largest entropy at which an image leaves at each exit; 0 lets none leave.

    Attributes:
        shares: shares of the images that leave at each exit, the last one's last.
    """

    def __init__(self, parts: Sequence[nn.Module], exits: Sequence[nn.Module], thresholds: Sequence[float]) -> None:
        super().__init__()
        self.parts, self.exits = nn.ModuleList(parts), nn.ModuleList(exits)
        self.thresholds = [float(t) for t in thresholds]
        self.shares = [0.0] * len(exits) + [1.0]

    def all_logits(self, x: Tensor) -> list[Tensor]:
        """Return the logits of all exits, the last one's last."""
        logits = []
        for part, leave in zip(self.parts[:-1], self.exits, strict=True):
            x = part(x)
            logits.append(leave(x))
        return [*logits, self.parts[-1](x)]

    def leave(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, K) and the exit (B,) that each image takes; images that have left cost nothing more."""
        index = torch.arange(len(x), device=x.device)
        taken = torch.full((len(x),), len(self.exits), device=x.device)
        result: Tensor | None = None
        for number, (part, leave) in enumerate(zip(self.parts[:-1], self.exits, strict=True)):
            x = part(x)
            logits = leave(x)
            result = logits.new_empty(len(taken), logits.shape[1]) if result is None else result
            out = entropy(logits) < self.thresholds[number]
            result[index[out]] = logits[out]
            taken[index[out]] = number
            x, index = x[~out], index[~out]
            if not len(index):
                return result, taken
        last = self.parts[-1](x)
        result = last.new_empty(len(taken), last.shape[1]) if result is None else result
        result[index] = last
        return result, taken

    def forward(self, x: Tensor) -> Tensor:
        """Return logits: of the last exit in training, of the exit that each image takes otherwise."""
        return self.all_logits(x)[-1] if self.training else self.leave(x)[0]

    def whole(self) -> EarlyExitNetwork:
        """Return a copy that no image leaves early, so that all exits and parts run."""
        network = copy.deepcopy(self)
        network.thresholds = [0.0] * len(self.thresholds)
        return network

    def reached(self, layer: str) -> float:
        """Return the share of the images for which a layer runs: of those that leave at its part's exit or later."""
        return sum(self.shares[int(layer.split(".")[1]) :])


def exit_macs(network: EarlyExitNetwork, x: Tensor) -> list[int]:
    """Return the multiply-accumulates of an image that leaves at each exit.

    Args:
        network: network with exits.
        x: one image (1, C, H, W).
    """
    costs, total = [], 0
    with torch.no_grad():
        for part, leave in zip(network.parts[:-1], network.exits, strict=True):
            total += count_macs(part, x)
            x = part(x)
            total += count_macs(leave, x)
            costs.append(total)
        return [*costs, total + count_macs(network.parts[-1], x)]


def expected_macs(costs: Sequence[int], shares: Sequence[float]) -> float:
    """Return the mean cost of an image: sum of cost x share of the images that leave there."""
    return sum(cost * share for cost, share in zip(costs, shares, strict=True))


@torch.no_grad()
def exit_table(
    network: EarlyExitNetwork, batches: Any, thresholds: Sequence[float]
) -> dict[float, tuple[float, list[float]]]:
    """Return accuracy and share of images of each exit for thresholds that all exits share.

    Args:
        network: network with exits, in eval mode.
        batches: batches of images and labels.
        thresholds: thresholds to try.
    """
    logits, labels = [], []
    device = next(network.parameters()).device
    for batch in batches:
        logits.append(torch.stack(network.all_logits(batch.x.to(device))))
        labels.append(batch.y.to(device))
    all_logits, y = torch.cat(logits, 1), torch.cat(labels)
    uncertainty = torch.stack([entropy(part) for part in all_logits[:-1]])
    table = {}
    for threshold in thresholds:
        leaves = torch.cat([uncertainty < threshold, torch.ones_like(uncertainty[:1], dtype=torch.bool)])
        taken = leaves.float().argmax(0)
        picked = all_logits[taken, torch.arange(len(y), device=device)]
        shares = [float((taken == i).float().mean()) for i in range(len(all_logits))]
        table[threshold] = float((picked.argmax(1) == y).float().mean()), shares
    return table


class EarlyExit(Stage):
    """Add exits to the network, train all jointly, and choose the threshold on held-out images.

    Args:
        weights: weight of the loss of each exit, the last one's last.
        budget_macs: largest mean multiply-accumulates of an image, as a share of the whole network's; the threshold is
            the most accurate one within it. None: the largest threshold within `tolerance` of the best accuracy.
        tolerance: accuracy that may be lost without a budget.
        recipe: training.
    """

    accepts = (FLOAT,)
    result = EXITS

    def __init__(
        self,
        weights: Sequence[float] = (1.0, 0.6, 0.3),
        budget_macs: float | None = None,
        tolerance: float = 0.005,
        recipe: Recipe | None = None,
    ) -> None:
        check_positive("stage", budget_macs=budget_macs)
        check_fraction("stage", tolerance=tolerance)
        if min(weights, default=0) < 0 or not sum(weights) > 0:
            raise ValueError(f"stage.weights must be numbers from 0 on, not all 0, got {list(weights)}")
        self.weights, self.budget_macs, self.tolerance = tuple(weights), budget_macs, tolerance
        self.recipe = recipe or Recipe(100, 0.001, optimizer="adam")

    def check(self, network: nn.Module, data: Any) -> None:
        """Check that the network can be cut and that there is a weight for each exit."""
        parts = segments(network)
        if len(self.weights) != len(parts):
            raise ValueError(f"weights needs {len(parts)} numbers, one for each exit and the last; got {self.weights}")

    def with_exits(self, network: nn.Module, context: Context) -> EarlyExitNetwork:
        """Return the network with exits of new weights."""
        parts = segments(network)
        x, exits = context.example, []
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed + 4)
            for part in parts[:-1]:
                x = part.eval()(x)
                exits.append(nn.Sequential(GlobalAverage(), nn.Linear(x.shape[1], context.dims["num_classes"])))
        return EarlyExitNetwork(parts, exits, [0.0] * len(exits)).to(context.device)

    def __call__(self, network: nn.Module, context: Context) -> nn.Module:
        """Add exits, train, choose the threshold."""
        exits = self.with_exits(network, context)

        def loss(net: Any, batch: Any) -> Tensor:
            losses = [w * cross_entropy(z, batch.y) for w, z in zip(self.weights, net.all_logits(batch.x), strict=True)]
            return torch.stack(losses).sum()

        context.train(exits, self.recipe, loss=loss)
        costs = exit_macs(exits, context.example)
        held_out = "val" in context.data.parts
        batches = (
            context.data._loader("val", context.data.eval_batch_size) if held_out else context.data.plain_batches()
        )
        table = exit_table(exits, batches, THRESHOLDS)
        threshold = self.choose(table, costs)
        exits.thresholds = [threshold] * len(exits.exits)
        exits.shares = exit_table(exits, context.data.test_dataloader(), [threshold])[threshold][1]
        context.numbers |= {f"exit_{i}": share for i, share in enumerate(exits.shares)}
        context.numbers |= {"threshold": threshold, "expected_macs": expected_macs(costs, exits.shares)}
        return exits

    def choose(self, table: dict[float, tuple[float, list[float]]], costs: Sequence[int]) -> float:
        """Return the threshold that fits the budget best."""
        if self.budget_macs is not None:
            fitting = {t: r for t, r in table.items() if expected_macs(costs, r[1]) <= self.budget_macs * costs[-1]}
            if not fitting:
                least = min(expected_macs(costs, shares) for _, shares in table.values()) / costs[-1]
                raise ValueError(f"budget_macs={self.budget_macs} cannot be met; the exits allow {least:.2f}")
            return max(fitting, key=lambda t: (fitting[t][0], -t))
        best = max(acc for acc, _ in table.values())
        return max(t for t, (acc, _) in table.items() if acc >= best - self.tolerance)
