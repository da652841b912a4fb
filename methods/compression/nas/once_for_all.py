"""Once-for-all (Cai et al. 2020, arXiv 1908.09791): one elastic network, progressive shrinking, then a search."""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, cross_entropy, softmax

from datasets.checks import check_count, check_not_negative, check_positive
from methods.architectures.classifier import global_average
from methods.compression.compact.mobilenet import conv_norm_relu
from methods.compression.dynamic.early_exit import Normalize
from methods.compression.macs import count_macs
from methods.compression.nas.chain_space import SKIP, BlockPlace, ChainNetwork, ChainSpace, MBConv
from methods.compression.nas.evolution import regularized_evolution
from methods.compression.stage import BUILT, Context, Stage
from methods.compression.training import Recipe, recalibrate_batchnorm

log = logging.getLogger(__name__)
PHASES = ("kernel", "depth", "expand")


class ElasticMBConv(nn.Module):
    """Block of which a part can run: a smaller kernel (the centre, transformed) and fewer hidden channels (the first).

    Args:
        place: place of the block.
        kernels: sides of kernels, rising.
        expands: expansions, rising.
    """

    def __init__(self, place: BlockPlace, kernels: Sequence[int], expands: Sequence[int]) -> None:
        super().__init__()
        self.largest = MBConv(place.channels, place.width, max(kernels), max(expands), place.stride)
        self.channels, self.stride, self.residual = place.channels, place.stride, self.largest.residual
        sides = sorted(kernels, reverse=True)
        self.transforms = nn.ParameterDict({str(side): nn.Parameter(torch.eye(side**2)) for side in sides[1:]})

    def parts(self) -> Any:
        """Return the layers of the whole block."""
        return self.largest.layers

    def depthwise_weight(self, kernel: int, hidden: int) -> Tensor:
        """Return the weight of the depthwise convolution for a kernel and a number of channels."""
        weight = self.parts()[3].weight[:hidden]
        for side in sorted(map(int, self.transforms), reverse=True):
            if side < kernel:
                break
            crop = (weight.shape[-1] - side) // 2
            weight = weight[:, :, crop : crop + side, crop : crop + side]
            weight = (weight.flatten(2) @ self.transforms[str(side)]).reshape(hidden, 1, side, side)
        return weight

    def forward(self, x: Tensor, operation: str) -> Tensor:
        """Return the output of a part of the block, such as "k3e6"."""
        if operation == SKIP:
            return x
        kernel, expand = (int(v) for v in operation[1:].split("e"))
        hidden, layers = expand * self.channels, self.parts()
        h = conv2d(x, layers[0].weight[:hidden])
        h = torch.relu(self._norm(layers[1], h))
        h = conv2d(h, self.depthwise_weight(kernel, hidden), None, self.stride, kernel // 2, groups=hidden)
        h = torch.relu(self._norm(layers[4], h))
        h = self._norm(layers[7], conv2d(h, layers[6].weight[:, :hidden]))
        return x + h if self.residual else h

    @staticmethod
    def _norm(norm: Any, x: Tensor) -> Tensor:
        c = x.shape[1]
        mean, var = norm.running_mean[:c], norm.running_var[:c]
        return batch_norm(x, mean, var, norm.weight[:c], norm.bias[:c], norm.training, norm.momentum, norm.eps)

    @torch.no_grad()
    def extract(self, operation: str, place: BlockPlace) -> nn.Module:
        """Return a part as a block of its own with the same weights."""
        if operation == SKIP:
            return nn.Identity()
        kernel, expand = (int(v) for v in operation[1:].split("e"))
        hidden = expand * self.channels
        block, layers = MBConv(place.channels, place.width, kernel, expand, place.stride), self.parts()
        own_layers: Any = block.layers
        own_layers[0].weight.copy_(layers[0].weight[:hidden])
        own_layers[3].weight.copy_(self.depthwise_weight(kernel, hidden))
        own_layers[6].weight.copy_(layers[6].weight[:, :hidden])
        for i in (1, 4, 7):
            own, other = own_layers[i], layers[i]
            for name in ("weight", "bias", "running_mean", "running_var"):
                getattr(own, name).copy_(getattr(other, name)[: own.num_features])
        return block


class ElasticNetwork(nn.Module):
    """Chain of elastic blocks.

    Args:
        space: space of chains; a part of the network is one of its architectures.
        dims: dims of the images.
    """

    def __init__(self, space: ChainSpace, dims: dict[str, Any]) -> None:
        super().__init__()
        mean, std = (torch.tensor(dims[k]).float().view(-1, 1, 1) for k in ("mean", "std"))
        self.normalize = Normalize(mean, std)
        self.stem = nn.Sequential(*conv_norm_relu(dims["in_channels"], space.widths[0], 3))
        self.places = space.places(dims["image_size"])
        self.blocks = nn.ModuleList(ElasticMBConv(place, space.kernels, space.expands) for place in self.places)
        self.head = nn.Linear(space.widths[-1], dims["num_classes"])
        self.architecture: list[str] = []

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of the part `architecture`."""
        x = self.stem(self.normalize(x))
        for block, operation in zip(self.blocks, self.architecture, strict=True):
            x = block(x, operation)
        return self.head(global_average(x))

    def extract(self, architecture: Sequence[str], space: ChainSpace, dims: dict[str, Any]) -> ChainNetwork:
        """Return a part as a network of its own."""
        network = ChainNetwork(space, [SKIP if op == SKIP else op for op in architecture], **dims)
        network.stem.load_state_dict(self.stem.state_dict())
        network.head.load_state_dict(self.head.state_dict())
        for i, (block, op, place) in enumerate(zip(self.blocks, architecture, self.places, strict=True)):
            network.blocks[i] = block.extract(op, place)  # type: ignore[operator]
        return network


class ElasticSpace:
    """Choices from which a phase of progressive shrinking draws.

    Args:
        space: space of chains.
        min_depth: smallest number of blocks of a stage.
        phase: number of phases that have begun: 0 the largest network alone, then kernel, depth, expand.
    """

    def __init__(self, space: ChainSpace, min_depth: int, phase: int) -> None:
        self.space, self.min_depth, self.phase = space, min_depth, phase

    def draw(self, rng: random.Random) -> tuple[str, ...]:
        """Return a random part."""
        space, result = self.space, []
        for _ in space.widths:
            depth = rng.randint(self.min_depth, space.blocks) if self.phase >= 2 else space.blocks
            for i in range(space.blocks):
                kernel = rng.choice(space.kernels) if self.phase >= 1 else max(space.kernels)
                expand = rng.choice(space.expands) if self.phase >= 3 else max(space.expands)
                result.append(f"k{kernel}e{expand}" if i < depth else SKIP)
        return tuple(result)

    def largest(self) -> tuple[str, ...]:
        """Return the whole network."""
        return ElasticSpace(self.space, self.min_depth, 0).draw(random.Random(0))

    def mutate(self, architecture: Sequence[str], rng: random.Random, rate: float = 0.2) -> tuple[str, ...]:
        """Return a part of which each stage is drawn anew with some probability, at least one."""
        other, blocks = self.draw(rng), self.space.blocks
        chosen = [rng.random() < rate for _ in self.space.widths]
        chosen[rng.randrange(len(chosen))] = True
        result: list[str] = []
        for stage, new in enumerate(chosen):
            source = other if new else architecture
            result += source[stage * blocks : (stage + 1) * blocks]
        return tuple(result)


class OnceForAll(Stage):
    """Train an elastic network by progressive shrinking, search its parts under a bound of operations, take the best.

    Every step of a phase trains some random parts on the labels and on the soft targets of the whole network.

    Args:
        space: space of chains; kernels and expansions give the choices, `blocks` the largest depth.
        min_depth: smallest number of blocks of a stage.
        full_recipe: training of the whole network.
        phase_recipe: training of each of the three phases.
        subnets: parts that a step trains.
        distill: weight of the soft targets.
        macs_share: largest multiply-accumulates of the part, as a share of the whole network's.
        budget: number of parts that the search evaluates.
        population: size of its population.
        bn_recal_batches: batches that measure batch normalisation of each part.
        recipe: training of the part by itself at the end; 0 epochs: none.
    """

    first_only = True
    result = BUILT

    def __init__(
        self,
        space: ChainSpace | None = None,
        min_depth: int = 2,
        full_recipe: Recipe | None = None,
        phase_recipe: Recipe | None = None,
        subnets: int = 2,
        distill: float = 1.0,
        macs_share: float = 0.5,
        budget: int = 100,
        population: int = 20,
        bn_recal_batches: int = 10,
        recipe: Recipe | None = None,
    ) -> None:
        self.space = space or ChainSpace(expands=(3, 4, 6))
        check_positive("stage", min_depth=min_depth, subnets=subnets, macs_share=macs_share, budget=budget)
        check_count("stage", population=population)
        check_not_negative("stage", distill=distill, bn_recal_batches=bn_recal_batches)
        if min_depth > self.space.blocks:
            raise ValueError(f"min_depth={min_depth} is above the {self.space.blocks} blocks of a stage")
        self.min_depth, self.subnets, self.distill, self.macs_share = min_depth, subnets, distill, macs_share
        self.budget, self.population, self.bn_recal_batches = budget, population, bn_recal_batches
        self.full_recipe = full_recipe or Recipe(120, 0.03, weight_decay=3e-5)
        self.phase_recipe = phase_recipe or Recipe(60, 0.01, weight_decay=3e-5)
        self.recipe = recipe or Recipe(0, 0.001)

    def __call__(self, network: nn.Module, context: Context) -> nn.Module:
        """Train, search, extract."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed + 8)
            elastic = ElasticNetwork(self.space, context.dims).to(context.device)
        self.shrink(elastic, context)
        best = tuple(context.remember("found", lambda: self.search(elastic, context)))
        final = self._recalibrated(elastic, best, context)
        log.info("%s: %s", context.label, " ".join(best))
        return context.train(final, self.recipe) if self.recipe.epochs else final

    def shrink(self, elastic: ElasticNetwork, context: Context) -> None:
        """Train the whole network, then ever smaller parts."""
        largest = ElasticSpace(self.space, self.min_depth, 0).largest()
        elastic.architecture = list(largest)
        context.train(elastic, self.full_recipe, label=f"{context.label}, whole network")
        teacher = copy.deepcopy(elastic).requires_grad_(False)
        for phase, name in enumerate(PHASES, 1):
            space = ElasticSpace(self.space, self.min_depth, phase)

            def loss(net: Any, batch: Any, space: ElasticSpace = space) -> Tensor:
                targets, total = softmax(teacher(batch.x), 1), torch.zeros((), device=batch.x.device)
                rng = random.Random(int(torch.randint(2**31, ())))  # torch's state is kept with an unfinished training
                for _ in range(self.subnets):
                    net.architecture = list(space.draw(rng))
                    logits = net(batch.x)
                    total = total + cross_entropy(logits, batch.y) + self.distill * cross_entropy(logits, targets)
                return total / self.subnets

            context.train(elastic, self.phase_recipe, loss=loss, label=f"{context.label}, elastic {name}")
        elastic.architecture = list(largest)

    def _recalibrated(self, elastic: ElasticNetwork, part: Sequence[str], context: Context) -> nn.Module:
        network = elastic.extract(part, self.space, context.dims).to(context.device)
        recalibrate_batchnorm(network, context.batches(), self.bn_recal_batches)
        return network

    def search(self, elastic: ElasticNetwork, context: Context) -> tuple[str, ...]:
        """Return the most accurate part within the bound."""
        space = ElasticSpace(self.space, self.min_depth, 3)
        whole = elastic.extract(space.largest(), self.space, context.dims).to(context.device)
        bound = self.macs_share * count_macs(whole, context.example)

        def allowed(part: tuple[str, ...]) -> bool:
            network = elastic.extract(part, self.space, context.dims).to(context.device)
            return count_macs(network, context.example) <= bound

        history = regularized_evolution(
            space.draw,
            space.mutate,
            lambda part: context.accuracy(self._recalibrated(elastic, part, context)),
            budget=self.budget,
            population=self.population,
            sample=max(self.population // 4, 1),
            allowed=allowed,
            seed=context.seed,
        )
        best, accuracy = max(history, key=lambda member: member[1])
        context.numbers |= {"part_acc": accuracy, "evaluated": len(history)}
        return best
