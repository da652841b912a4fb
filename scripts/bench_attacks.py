"""How fast images are attacked and trained on: our PGD beside foolbox's and beside a loop as published code has it.

    python -m scripts.bench_attacks [--model resnet18] [--batch 64] [--steps 10] [--repeats 3] [--threads 0] [--bf16]

All start from the same images without random start; how far the results lie apart is printed beside the speed.
The contestants take turns; medians of images/s and of the ratios of each round. The published loop calls backward()
on the loss in every step (as locuslab/robust_overfitting), which computes the weights' gradients too.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from methods.attacks import PGD
from runner.config.address import Run
from runner.config.instantiate import instantiate

EPS, STEP = 8 / 255, 2 / 255
DIMS = {"in_channels": 3, "num_classes": 10, "image_size": 32, "mean": [0.5] * 3, "std": [0.25] * 3}


def published_pgd(network: nn.Module, x: Tensor, y: Tensor, steps: int) -> Tensor:
    delta = torch.zeros_like(x, requires_grad=True)
    for _ in range(steps):
        cross_entropy(network(x + delta), y).backward()
        d = torch.clamp(delta.detach() + STEP * delta.grad.sign(), -EPS, EPS)
        delta.data = torch.clamp(d, -x, 1 - x)
        delta.grad.zero_()
    return (x + delta).detach()


def attackers(network: nn.Module, steps: int, bf16: bool) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    import foolbox

    ours = PGD(EPS, STEP, steps, start="none")
    theirs = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=steps, random_start=False)
    wrapped = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    strided = copy.deepcopy(network).to(memory_format=torch.channels_last)

    def last(x: Tensor, y: Tensor) -> Tensor:
        return ours(strided, x.contiguous(memory_format=torch.channels_last), y)

    def half(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return last(x, y)

    found = {
        "foolbox": lambda x, y: theirs(wrapped, x, y, epsilons=EPS)[1],
        "published loop": lambda x, y: published_pgd(network, x, y, steps),
        "ours, contiguous": lambda x, y: ours(network, x, y),
        "ours, channels_last": last,
    }
    return found | ({"ours, channels_last, bf16": half} if bf16 else {})


def trainers(network: nn.Module, steps: int, bf16: bool) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """A step of adversarial training: attack in eval mode, loss in train mode, SGD."""

    def trainer(attack: Callable, net: nn.Module, order: torch.memory_format, cast: bool) -> Callable:
        optimizer = torch.optim.SGD(net.parameters(), 1e-6, 0.9, weight_decay=5e-4)

        def step(x: Tensor, y: Tensor) -> Tensor:
            x = x.contiguous(memory_format=order)
            with torch.autocast("cpu", torch.bfloat16, enabled=cast):
                net.eval()
                adv = attack(net, x, y)
                net.train()
                optimizer.zero_grad()
                loss = cross_entropy(net(adv), y)
            loss.backward()
            optimizer.step()
            return loss.detach()

        return step

    ours = PGD(EPS, STEP, steps, start="none")
    last = torch.channels_last
    found = {
        "published loop": trainer(
            lambda net, x, y: published_pgd(net, x, y, steps), copy.deepcopy(network), torch.contiguous_format, False
        ),
        "ours, channels_last": trainer(ours, copy.deepcopy(network).to(memory_format=last), last, False),
    }
    if bf16:
        found["ours, channels_last, bf16"] = trainer(ours, copy.deepcopy(network).to(memory_format=last), last, True)
    return found


def race(title: str, contestants: dict[str, Callable], x: Tensor, y: Tensor, repeats: int) -> None:
    results = {name: run(x, y) for name, run in contestants.items()}  # also warms up
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            started = time.perf_counter()
            run(x, y)
            seconds[name].append(time.perf_counter() - started)
    first = next(iter(contestants))
    print(f"\n{title}")
    print(f"{'':28}{'images/s':>10}{'x ' + first:>18}{'largest difference':>22}")
    for name, taken in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(seconds[first], taken, strict=True))
        apart = (results[name].float() - results[first].float()).abs()
        print(f"{name:28}{len(x) / statistics.median(taken):10.1f}{ratio:18.2f}{float(apart.max()):22.2g}", end="")
        print(f"  ({float((apart > 1e-3).float().mean()):.2%} of values differ by over 0.001)" if apart.dim() else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--bf16", action="store_true", help="also in bfloat16 autocast")
    given = parser.parse_args()
    torch.set_num_threads(given.threads or os.cpu_count() or 1)
    torch.manual_seed(0)
    network = instantiate(Run.compose(["method=f2at/pgd_at", f"model={given.model}"]).cfg, "model", **DIMS)
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.rand(64, 3, 32, 32))  # running statistics
    network.eval()
    x, y = torch.rand(given.batch, 3, 32, 32), torch.randint(0, 10, (given.batch,))
    print(f"{given.model}, batches of {given.batch}, {given.steps} steps, {torch.get_num_threads()} threads")
    race("attack", attackers(network, given.steps, given.bf16), x, y, given.repeats)
    race(
        "step of adversarial training (result: the loss)",
        trainers(network, given.steps, given.bf16),
        x,
        y,
        given.repeats,
    )


if __name__ == "__main__":
    main()
