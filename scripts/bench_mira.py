"""Measure MIRA's inversion against the loop as published: steps per second, taking turns in one process.

The published loop has the parameters' gradients on, goes class by class, and never removes its hooks of batch norm (its
missing sum is filled in). Ours freezes the parameters, keeps activations in channels_last, and observes only the layers
that count.

--attacks measures every attack with the settings of its config instead, each in a process of its own: seconds, and by
how many MiB the peak memory grows. They work on LeNet-5 with random weights and on ten noisy patterns as classes.

Usage: python -m scripts.bench_mira [--model lenet5|smallcnn|resnet18] [--steps 20] [--per-class 250] [--rounds 3]
       python -m scripts.bench_mira --attacks all|ftal,mira,... [--images 999]
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import torch
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from methods.architectures.convnet import ConvNet
from methods.architectures.lenet import LeNet5
from methods.architectures.resnet import ResNet
from methods.mira.attack_data import AttackData
from methods.mira.inversion import Inversion
from methods.mira.losses import l2_norm, total_variation
from runner.config.address import Run
from scripts.arguments import positive

ATTACKS = (
    *("mira", "mira/basic", "mira/pruning", "mira/fine_pruning", "mira/ftll", "mira/ftal", "mira/rtll", "mira/rtal"),
    *("mira/regularization", "mira/neural_cleanse", "mira/laundering", "mira/refit", "mira/refit_ewc", "mira/wild"),
    "mira/distillation",
)


def make_network(name: str) -> nn.Module:
    """Return a network of random weights for the data of the paper."""
    grey = {"in_channels": 1, "num_classes": 10, "image_size": 28, "mean": [0.0], "std": [1.0]}
    colour = grey | {"in_channels": 3, "image_size": 32, "mean": [0.5] * 3, "std": [0.25] * 3}
    makers: dict[str, Callable[[], nn.Module]] = {
        "lenet5": lambda: LeNet5(padding=2, **grey),  # type: ignore[arg-type]
        "smallcnn": lambda: ConvNet(**colour),  # type: ignore[arg-type]
        "resnet18": lambda: ResNet(**colour),  # type: ignore[arg-type]
    }
    return makers[name]().eval()


def published(network: nn.Module, classes: int, per_class: int, steps: int) -> None:
    """Run the published loop."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    distances: list[Tensor] = []

    def observe(layer: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        u = inputs[0]
        mean = u.mean([0, 2, 3])
        var = u.permute(1, 0, 2, 3).reshape(u.shape[1], -1).var(1, unbiased=False)
        distances.append((layer.running_var - var).norm() + (layer.running_mean - mean).norm())  # type: ignore[operator]

    handles = [layer.register_forward_hook(observe) for layer in norms]
    side, channels = int(network.image_size), int(network.in_channels)  # type: ignore[arg-type]
    for label in range(classes):
        z = torch.randn(per_class, channels, side, side, requires_grad=True)
        optimizer = torch.optim.Adam([z], lr=0.1, betas=(0.5, 0.9))
        for _ in range(steps):
            distances.clear()
            image = (z.tanh() + 1) / 2
            x = (image - network.mean) / network.std  # type: ignore[operator]
            loss = cross_entropy(network(image), torch.full((per_class,), label))
            loss = loss + 0.01 * l2_norm(x) + 0.03 * total_variation(x)
            weights = [1.0] * (len(distances) - 2) + [0.0] * 2
            loss = loss + 0.1 * sum(w * r for w, r in zip(weights, distances, strict=False))
            optimizer.zero_grad()
            network.zero_grad()
            loss.backward()
            optimizer.step()
    for handle in handles:
        handle.remove()


def seconds_of(work: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def peak_mib() -> float:
    """Return the peak resident memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def noisy_patterns(images: int) -> AttackData:
    """Return images (images, 1, 28, 28) of ten random patterns with noise, and the number of the pattern as label."""
    generator = torch.Generator().manual_seed(0)
    patterns, y = torch.rand(10, 1, 28, 28, generator=generator), torch.arange(images) % 10
    x = 0.7 * patterns[y] + 0.3 * torch.rand(images, 1, 28, 28, generator=generator)
    return AttackData(num_classes=10, seed=0, x=x, y=y)


def measure_attack(method: str, images: int) -> tuple[float, float, float]:
    """Return the seconds of the inversion and of the rest of an attack, and the growth of the peak memory in MiB.

    Args:
        method: method of the attack, with the settings of its config.
        images: number of the attacker's images.
    """
    torch.set_num_threads(1)
    cfg = Run.compose([f"method={method}", "model=lenet5", "dataset=mnist"]).cfg
    attack, network, data = instantiate(cfg.method.attack), make_network("lenet5"), noisy_patterns(images)
    cross_entropy(network(data.images[:8]), data.labels[:8]).backward()  # loads what every attack needs
    before, started = peak_mib(), time.perf_counter()
    if attack.uses_recovered:
        recovered = instantiate(cfg.vars.inversion)(network, seed=0)
        data = AttackData(num_classes=10, seed=0, x=data.x, y=data.y, recovered=recovered)
    inverted = time.perf_counter()
    attack(network, data, lambda _: None)
    return inverted - started, time.perf_counter() - inverted, peak_mib() - before


def bench_attacks(methods: Sequence[str], images: int) -> None:
    """Print a line for each attack; each runs in a process of its own, so that its peak memory is its own."""
    print(f"LeNet-5, {images} images, 1 thread: seconds of inversion and of the rest, MiB of growth")
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as processes:
        for method in methods:
            inversion, rest, memory = processes.submit(measure_attack, method, images).result()
            print(f"{method:<20} {inversion:7.1f} {rest:7.1f} {memory:7.0f}", flush=True)


def main() -> None:
    """Print steps of one class per second and the ratio, for one class and for several classes in a batch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="lenet5", choices=("lenet5", "smallcnn", "resnet18"))
    parser.add_argument("--steps", type=positive, default=20)
    parser.add_argument("--per-class", type=positive, default=250)
    parser.add_argument("--classes-per-batch", type=positive, nargs="+", default=[1, 5])
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--attacks", help="attacks to measure instead, separated by commas, or all")
    parser.add_argument("--images", type=positive, default=999)
    arguments = parser.parse_args()
    if arguments.attacks:
        bench_attacks(ATTACKS if arguments.attacks == "all" else arguments.attacks.split(","), arguments.images)
        return
    torch.set_num_threads(1)
    network, steps, n = make_network(arguments.model), arguments.steps, arguments.per_class
    works: dict[str, Callable[[], object]] = {"published": partial(published, network, 10, n, steps)}
    for count in arguments.classes_per_batch:
        ours = Inversion(per_class=n, steps=steps, classes_per_batch=count)
        works[f"ours, {count} a batch"] = partial(ours, network, seed=0)
    best = {name: float("inf") for name in works}
    for _ in range(arguments.rounds):
        for name, work in works.items():
            best[name] = min(best[name], seconds_of(work))
    for name, seconds in best.items():
        rate, ratio = 10 * steps / seconds, best["published"] / seconds
        print(f"{arguments.model}, {n} images a class, 1 thread: {name}: {rate:.1f} steps/s, {ratio:.2f}x")


if __name__ == "__main__":
    main()
