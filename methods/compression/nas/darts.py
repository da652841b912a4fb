"""DARTS (Liu et al. 2019, arXiv 1806.09055): differentiable architecture search, first and second order."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from datasets.checks import check_choice, check_fraction, check_not_negative, check_positive
from datasets.images.loader import ImageSet
from methods.compression.figures import plot_cell
from methods.compression.nas.darts_network import DartsNetwork, Genotype, SearchNetwork, hessian_step, loss_of
from methods.compression.stage import BUILT, Context, Stage
from methods.compression.training import EpochReports, Recipe, TrainingState, to_device

log = logging.getLogger(__name__)
UNUSED: Any = {"allow_unused": True, "materialize_grads": True}  # a network of few cells may have no reduction
LossOf = Callable[[nn.Module, Any], Tensor]


def first_order_gradient(network: Any, val: Any, loss: LossOf = loss_of) -> list[Tensor]:
    """Return the gradient of the validation loss by the architecture weights, with the other weights fixed."""
    return list(torch.autograd.grad(loss(network, val), list(network.alphas), **UNUSED))


def second_order_gradient(
    network: Any,
    train: Any,
    val: Any,
    lr: float,
    momentum: Sequence[Tensor] | None = None,
    momentum_factor: float = 0.9,
    weight_decay: float = 3e-4,
    loss: LossOf = loss_of,
) -> list[Tensor]:
    """Return the gradient of the validation loss after one step of the weights, by the architecture weights.

    w' = w - lr (momentum_factor m + dL_train/dw + weight_decay w). The gradient is
    dL_val(w')/da - lr (g+ - g-) / (2 eps) with g+- = dL_train(w +- eps dL_val/dw')/da and eps = 0.01 / ||dL_val/dw'||
    (paper, equations 7 and 8).

    Args:
        network: network with `alphas` and `weights()`.
        train: training batch.
        val: validation batch.
        lr: learning rate of the weights, xi.
        momentum: momentum buffer of each weight, m; None: zeros.
        momentum_factor: factor of the momentum.
        weight_decay: weight decay of the weights.
        loss: loss of a batch.
    """
    alphas, weights = list(network.alphas), network.weights()
    gradients = torch.autograd.grad(loss(network, train), weights, **UNUSED)
    buffers = momentum or [torch.zeros_like(w) for w in weights]
    moved = copy.deepcopy(network)
    with torch.no_grad():
        for w, g, m in zip(moved.weights(), gradients, buffers, strict=True):
            w.sub_(lr * (momentum_factor * m + g + weight_decay * w))
    outer = torch.autograd.grad(loss(moved, val), [*moved.alphas, *moved.weights()], **UNUSED)
    by_alpha, by_weight = outer[: len(alphas)], outer[len(alphas) :]
    eps = hessian_step(float(torch.cat([g.flatten() for g in by_weight]).norm()))
    sides = []
    for sign in (1, -1):
        shifted = copy.deepcopy(network)
        with torch.no_grad():
            for w, g in zip(shifted.weights(), by_weight, strict=True):
                w.add_(g, alpha=sign * eps)
        sides.append(torch.autograd.grad(loss(shifted, train), list(shifted.alphas), **UNUSED))
    return [a - lr * (p - n) / (2 * eps) for a, p, n in zip(by_alpha, *sides, strict=True)]


def skips(genotype: Genotype) -> int:
    """Return the number of skip connections of the normal cell; many are a sign of collapse."""
    return sum(name == "skip_connect" for name, _ in genotype.normal)


class Darts(Stage):
    """Search cells on half of the training images with the other half as validation, build the network, train it.

    Args:
        order: first or second.
        search_channels: channels of a node in the search.
        search_layers: cells in the search.
        search_recipe: training of the weights in the search.
        min_lr: rate at which the schedule of the search ends.
        alpha_lr: learning rate of the architecture weights (Adam).
        alpha_weight_decay: their weight decay.
        clip: largest norm of the gradient of the weights.
        max_skips: stop the search when the normal cell has more skip connections; None: never.
        channels: channels of a node of the final network.
        layers: cells of the final network.
        drop_path: largest probability of a dropped edge.
        recipe: training of the final network.
    """

    first_only = True
    result = BUILT

    def __init__(
        self,
        order: str = "second",
        search_channels: int = 16,
        search_layers: int = 8,
        search_recipe: Recipe | None = None,
        min_lr: float = 0.001,
        alpha_lr: float = 3e-4,
        alpha_weight_decay: float = 1e-3,
        clip: float = 5.0,
        max_skips: int | None = None,
        channels: int = 36,
        layers: int = 20,
        drop_path: float = 0.2,
        recipe: Recipe | None = None,
    ) -> None:
        check_choice("order", order, ("first", "second"))
        check_positive(
            "stage", search_channels=search_channels, search_layers=search_layers, alpha_lr=alpha_lr, clip=clip
        )
        check_positive("stage", channels=channels, layers=layers)
        check_not_negative("stage", min_lr=min_lr, alpha_weight_decay=alpha_weight_decay, max_skips=max_skips)
        check_fraction("stage", drop_path=drop_path)
        self.min_lr = min_lr
        self.order, self.search_channels, self.search_layers = order, search_channels, search_layers
        self.search_recipe = search_recipe or Recipe(50, 0.025, weight_decay=3e-4)
        self.alpha_lr, self.alpha_weight_decay, self.clip, self.max_skips = (
            alpha_lr,
            alpha_weight_decay,
            clip,
            max_skips,
        )
        self.channels, self.layers, self.drop_path = channels, layers, drop_path
        self.recipe = recipe or Recipe(600, 0.025, weight_decay=3e-4)

    def search(self, context: Context) -> Genotype:
        """Return the cells that the search finds."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed + 5)
            network = SearchNetwork(self.search_channels, self.search_layers, **context.dims).to(context.device)
        train_loader, val_loader = halves(context)
        recipe = self.search_recipe
        optimizer = recipe.make_optimizer(network.weights())
        adam = torch.optim.Adam(network.alphas, self.alpha_lr, (0.5, 0.999), weight_decay=self.alpha_weight_decay)
        state = TrainingState(context.next_state(), [network], [optimizer, adam], f"{context.label}, search")
        done = state.load()
        report = EpochReports(f"{context.label}, search", done, recipe.epochs)
        val_batches = endless(val_loader, done * len(train_loader))
        for epoch in range(done, recipe.epochs):
            lr = self.min_lr + (recipe.lr - self.min_lr) * recipe.factor(epoch / recipe.epochs)
            optimizer.param_groups[0]["lr"] = lr
            train_loader.set_epoch(epoch)
            network.train()
            for batch in train_loader:
                train, val = to_device(batch, context.device), to_device(next(val_batches), context.device)
                self._alpha_step(network, train, val, lr, optimizer, adam)
                optimizer.zero_grad()
                loss = loss_of(network, train)
                loss.backward()
                nn.utils.clip_grad_norm_(network.weights(), self.clip)
                optimizer.step()
            found = network.genotype()
            report(epoch + 1, f"loss {float(loss.detach()):.3f}, {skips(found)} skips")
            if self.max_skips is not None and skips(found) > self.max_skips:
                log.warning("%s: the search collapses to skip connections and ends", context.label)
                break
            state.save(epoch + 1, recipe.epochs)
        context.numbers["alpha_moved"] = float(max(alpha.detach().abs().max() for alpha in network.alphas))
        return network.genotype()

    def _alpha_step(
        self, network: SearchNetwork, train: Any, val: Any, lr: float, optimizer: torch.optim.Optimizer, adam: Any
    ) -> None:
        if self.order == "first":
            gradients = first_order_gradient(network, val)
        else:
            state = optimizer.state
            buffers = [state[w].get("momentum_buffer") if w in state else None for w in network.weights()]
            ready = None if any(b is None for b in buffers) else buffers
            recipe = self.search_recipe
            gradients = second_order_gradient(network, train, val, lr, ready, recipe.momentum, recipe.weight_decay)  # type: ignore[arg-type]
        for alpha, gradient in zip(network.alphas, gradients, strict=True):
            alpha.grad = gradient
        adam.step()

    def __call__(self, network: nn.Module, context: Context) -> nn.Module:
        """Search, build, train."""
        found = context.remember("found", lambda: self.search(context))
        genotype = Genotype(*([(name, source) for name, source in pairs] for pairs in found))
        context.numbers["skips"] = skips(genotype)
        for kind in ("normal", "reduce"):
            edges = [(name, source, 2 + i // 2) for i, (name, source) in enumerate(getattr(genotype, kind))]
            context.drawings[f"cell_{kind}"] = lambda e=edges, k=kind: plot_cell(e, 6, f"{k} cell")  # type: ignore[misc]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed + 6)
            final = DartsNetwork(genotype, self.channels, self.layers, self.drop_path, **context.dims)

        def progress(epoch: int) -> None:
            final.set_progress(epoch / self.recipe.epochs)

        return context.train(final.to(context.device), self.recipe, before_epoch=progress)


def halves(context: Context) -> tuple[Any, Any]:
    """Return loaders of two halves of the training part, drawn by the seed."""
    loader = context.batches()
    images = context.data.parts["train"]
    generator = torch.Generator().manual_seed(context.seed)
    order = torch.randperm(len(images.labels), generator=generator)
    parts = order[: len(order) // 2], order[len(order) // 2 :]
    size = min(context.data.batch_size, len(parts[0]))
    loaders = [
        type(loader)(
            ImageSet(images.images[p], images.labels[p]), size, shuffle=True, augment=loader.augment, seed=loader.seed
        )
        for p in parts
    ]
    return loaders[0], loaders[1]


def endless(loader: Any, skip: int = 0) -> Iterator[Any]:
    """Yield batches without an end, shuffled anew each time; leave out the first ones."""
    epoch, skip = divmod(skip, len(loader))
    while True:
        loader.set_epoch(epoch)
        yield from islice(loader, skip, None)
        epoch, skip = epoch + 1, 0
