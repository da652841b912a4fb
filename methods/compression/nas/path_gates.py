"""Hardware-aware differentiable search by path gates (ProxylessNAS, Cai et al. 2019, arXiv 1812.00332)."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from datasets.checks import check_choice, check_not_negative, check_positive
from methods.architectures.classifier import global_average
from methods.compression.compact.mobilenet import conv_norm_relu
from methods.compression.dynamic.early_exit import Normalize
from methods.compression.nas.chain_space import ChainSpace, make_block, seeded_network
from methods.compression.nas.darts import endless, halves
from methods.compression.nas.latency_table import LatencyTable, additivity, key_of, table_for
from methods.compression.stage import BUILT, Context, Stage
from methods.compression.training import EpochReports, Recipe, TrainingState, to_device

log = logging.getLogger(__name__)


def gate_gradient(by_gate: Tensor, probabilities: Tensor) -> Tensor:
    """Return dL/d alpha_i = sum_j dL/dg_j p_j (delta_ij - p_i) (paper, equation 4).

    Args:
        by_gate: dL/dg_j (n,).
        probabilities: softmax of the architecture weights (n,).
    """
    weighted = by_gate * probabilities
    return weighted - probabilities * weighted.sum()


def expected_latency(probabilities: list[Tensor], latencies: list[Tensor]) -> Tensor:
    """Return the sum over edges of sum_j p_j F(op_j)."""
    return torch.stack([(p * f).sum() for p, f in zip(probabilities, latencies, strict=True)]).sum()


def latency_loss(loss: Tensor, latency: Tensor, reference: float, kind: str, weight: float, exponent: float) -> Tensor:
    """Return the loss with the expected latency.

    Args:
        loss: cross-entropy.
        latency: expected latency E.
        reference: reference latency.
        kind: add (loss + weight (E - ref) / ref), or multiply (loss x weight (log E / log ref)^exponent).
        weight: lambda, or alpha of the product.
        exponent: beta of the product.
    """
    if kind == "add":
        return loss + weight * (latency - reference) / reference
    # logarithms of microseconds, which are above 1 where milliseconds may be below
    return loss * weight * (torch.log(1000 * latency) / math.log(1000 * reference)) ** exponent


class GatedEdge(nn.Module):
    """Edge of which one operation runs, as drawn.

    Args:
        operations: candidate operations.
    """

    def __init__(self, operations: list[nn.Module]) -> None:
        super().__init__()
        self.operations = nn.ModuleList(operations)
        self.alpha = nn.Parameter(1e-3 * torch.randn(len(operations)))
        self.active = 0
        self.gates: Tensor | None = None

    def probabilities(self) -> Tensor:
        """Return the softmax of the architecture weights."""
        return torch.softmax(self.alpha, 0)

    def draw(self) -> None:
        """Draw the active operation."""
        self.active = int(torch.multinomial(self.probabilities().detach(), 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the active operation; with `gates` set, the gated sum of all, for their gradient.

        Only the active operation gets gradients of its weights.
        """
        if self.gates is None:
            return self.operations[self.active](x)
        result = self.gates[self.active] * self.operations[self.active](x)
        for number, operation in enumerate(self.operations):
            if number != self.active:
                with torch.no_grad():
                    out = operation(x)
                result = result + self.gates[number] * out
        return result


class GatedNetwork(nn.Module):
    """Chain whose blocks are gated edges.

    Args:
        space: space of chains.
        dims: dims of the images.
    """

    def __init__(self, space: ChainSpace, dims: dict[str, Any]) -> None:
        super().__init__()
        mean, std = (torch.tensor(dims[k]).float().view(-1, 1, 1) for k in ("mean", "std"))
        self.stem = nn.Sequential(Normalize(mean, std), *conv_norm_relu(dims["in_channels"], space.widths[0], 3))
        self.places = space.places(dims["image_size"])
        self.names = [space.choices(place) for place in self.places]
        self.edges = nn.ModuleList(
            GatedEdge([make_block(name, place) for name in names])
            for names, place in zip(self.names, self.places, strict=True)
        )
        self.head = nn.Linear(space.widths[-1], dims["num_classes"])

    def gated(self) -> list[GatedEdge]:
        """Return the edges."""
        return list(self.edges)  # type: ignore[arg-type]

    def draw(self) -> None:
        """Draw the active operation of every edge."""
        for edge in self.gated():
            edge.draw()

    def weights(self) -> list[nn.Parameter]:
        """Return the parameters that are no architecture weights."""
        own = {id(edge.alpha) for edge in self.gated()}
        return [p for p in self.parameters() if id(p) not in own]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of the drawn architecture."""
        x = self.stem(x)
        for edge in self.edges:
            x = edge(x)
        return self.head(global_average(x))

    def architecture(self) -> tuple[str, ...]:
        """Return the most probable operation of each edge."""
        return tuple(n[int(e.alpha.argmax())] for n, e in zip(self.names, self.gated(), strict=True))


def alpha_gradients(
    network: GatedNetwork,
    batch: Any,
    latencies: list[Tensor],
    reference: float,
    kind: str,
    weight: float,
    exponent: float,
) -> list[Tensor]:
    """Return the gradient of the loss with latency by the architecture weights of each edge.

    The part of the cross-entropy goes by the gates; that of the latency is exact.
    """
    edges = network.gated()
    for edge in edges:
        gates = torch.zeros(len(edge.operations), device=edge.alpha.device)
        gates[edge.active] = 1.0
        edge.gates = gates.requires_grad_(True)
    loss = cross_entropy(network(batch.x), batch.y)
    by_gate = torch.autograd.grad(loss, [edge.gates for edge in edges])  # type: ignore[arg-type]
    for edge in edges:
        edge.gates = None
    probabilities = [edge.probabilities() for edge in edges]
    latency = expected_latency(probabilities, latencies)
    value = loss.detach().requires_grad_(True)
    total = latency_loss(value, latency, reference, kind, weight, exponent)
    by_loss, *by_latency = torch.autograd.grad(total, [value, *(edge.alpha for edge in edges)])
    return [
        by_loss * gate_gradient(g, p.detach()) + direct
        for g, p, direct in zip(by_gate, probabilities, by_latency, strict=True)
    ]


class PathGateSearch(Stage):
    """Search the chain space by gates with the expected latency in the loss, then train the found chain.

    Args:
        loss: add or multiply, see `latency_loss`.
        weight: weight of the latency.
        exponent: exponent of the product.
        reference_ms: reference latency; None: that of the uniform mixture at the start.
        warmup_epochs: epochs of weights alone before the search.
        warmup_lr: learning rate of these epochs, which falls by a cosine.
        every: weight steps between two architecture steps.
        alpha_lr: learning rate of the architecture weights (Adam).
        lut: file of the latency table; None: measured in the run.
        space: search space.
        search_recipe: training of the weights.
        recipe: training of the found chain.
    """

    first_only = True
    result = BUILT

    def __init__(
        self,
        loss: str = "multiply",
        weight: float = 0.2,
        exponent: float = 0.3,
        reference_ms: float | None = None,
        warmup_epochs: int = 40,
        warmup_lr: float = 0.05,
        every: int = 5,
        alpha_lr: float = 1e-3,
        lut: str | None = None,
        space: ChainSpace | None = None,
        search_recipe: Recipe | None = None,
        recipe: Recipe | None = None,
    ) -> None:
        check_choice("loss", loss, ("add", "multiply"))
        check_positive("stage", reference_ms=reference_ms, every=every, alpha_lr=alpha_lr, warmup_lr=warmup_lr)
        self.warmup_lr = warmup_lr
        check_not_negative("stage", warmup_epochs=warmup_epochs, weight=weight)
        self.loss, self.weight, self.exponent, self.reference_ms = loss, weight, exponent, reference_ms
        self.warmup_epochs, self.every, self.alpha_lr, self.lut = warmup_epochs, every, alpha_lr, lut
        self.space = space or ChainSpace()
        self.search_recipe = search_recipe or Recipe(120, 0.025, weight_decay=4e-5)
        self.recipe = recipe or Recipe(160, 0.1, schedule="step")

    def __call__(self, network: nn.Module, context: Context) -> nn.Module:
        """Search and train."""
        size = context.dims["image_size"]
        table = table_for(self.space, context, self.lut)
        context.numbers |= additivity(table, self.space, context.dims)
        found = tuple(context.remember("found", lambda: self.search(table, context)))
        context.numbers["predicted_ms"] = table.predict(self.space, found, size)
        context.numbers["skipped_blocks"] = sum(op == "skip" for op in found)
        log.info("%s: %s", context.label, " ".join(found))
        final = seeded_network(self.space, found, context.seed, context.dims).to(context.device)
        return context.train(final, self.recipe)

    def rate(self, epoch: int) -> float:
        """Return the learning rate of the weights in an epoch, those of the warm-up included."""
        if epoch < self.warmup_epochs:
            return self.warmup_lr * 0.5 * (1 + math.cos(math.pi * epoch / self.warmup_epochs))
        recipe = self.search_recipe
        return recipe.lr * recipe.factor((epoch - self.warmup_epochs) / recipe.epochs)

    def search(self, table: LatencyTable, context: Context) -> tuple[str, ...]:
        """Return the most probable chain after the search."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed + 7)
            network = GatedNetwork(self.space, context.dims).to(context.device)
            places = network.places
            latencies = [
                torch.tensor([table[key_of(n, p)] for n in names], device=context.device)
                for names, p in zip(network.names, places, strict=True)
            ]
            uniform = [torch.full((len(f),), 1 / len(f), device=context.device) for f in latencies]
            reference = self.reference_ms or float(expected_latency(uniform, latencies))
            optimizer = self.search_recipe.make_optimizer(network.weights())
            adam = torch.optim.Adam([e.alpha for e in network.gated()], self.alpha_lr, (0.0, 0.999))
            train_loader, val_loader = halves(context)
            epochs, label = self.warmup_epochs + self.search_recipe.epochs, f"{context.label}, search"
            state = TrainingState(context.next_state(), [network], [optimizer, adam], label)
            done = state.load()
            report = EpochReports(label, done, epochs)
            step, warmup = (n * len(train_loader) for n in (done, self.warmup_epochs))
            val_batches = endless(val_loader, max(step // self.every - warmup // self.every, 0))
            for epoch in range(done, epochs):
                train_loader.set_epoch(epoch)
                network.train()
                optimizer.param_groups[0]["lr"] = self.rate(epoch)
                for batch in train_loader:
                    network.draw()
                    optimizer.zero_grad()
                    loss = cross_entropy(network(batch.x.to(context.device)), batch.y.to(context.device))
                    loss.backward()
                    optimizer.step()
                    step += 1
                    if epoch >= self.warmup_epochs and step % self.every == 0:
                        network.draw()
                        val = to_device(next(val_batches), context.device)
                        gradients = alpha_gradients(
                            network, val, latencies, reference, self.loss, self.weight, self.exponent
                        )
                        for edge, gradient in zip(network.gated(), gradients, strict=True):
                            edge.alpha.grad = gradient
                        adam.step()
                report(epoch + 1, f"loss {float(loss.detach()):.3f}")
                state.save(epoch + 1, epochs)
        final = expected_latency([e.probabilities().detach() for e in network.gated()], latencies)
        context.numbers |= {"reference_ms": reference, "expected_ms": float(final)}
        return network.architecture()
