"""Compare the speed of attacks and of adversarial training: our PGD, foolbox's, and the loop of published code.

    python -m scripts.bench_attacks [--model resnet18] [--batch 64] [--steps 10] [--repeats 3] [--threads 0] [--bf16]

All attacks start from the same images without random start. The contestants take turns; the table has medians of the
images per second, of the ratios of each round to the first contestant, and the largest difference of the results from
the first contestant's. The published loop calls backward() on the loss in every step (as locuslab/robust_overfitting),
which computes the weights' gradients too.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from methods.attacks import PGD
from methods.memory_format import preferred_memory_format, to_memory_format
from runner.config.address import Run
from runner.config.instantiate import instantiate
from scripts.arguments import not_negative, positive

EPS, STEP_SIZE = 8 / 255, 2 / 255
DIMS = {"in_channels": 3, "num_classes": 10, "image_size": 32, "mean": [0.5] * 3, "std": [0.25] * 3}

Contestant = Callable[[Tensor, Tensor], Tensor]


def published_pgd(network: nn.Module, x: Tensor, y: Tensor, steps: int) -> Tensor:
    """Return images attacked by the loop of published code.

    Shapes: x (B, C, H, W) in [0, 1], y (B,) -> (B, C, H, W).
    """
    delta = torch.zeros_like(x, requires_grad=True)
    for _ in range(steps):
        cross_entropy(network(x + delta), y).backward()
        assert delta.grad is not None
        moved = torch.clamp(delta.detach() + STEP_SIZE * delta.grad.sign(), -EPS, EPS)
        delta.data = torch.clamp(moved, -x, 1 - x)
        delta.grad.zero_()
    return (x + delta).detach()


def attackers(network: nn.Module, steps: int, bf16: bool) -> dict[str, Contestant]:
    """Return functions from images and labels to attacked images, by name.

    Args:
        network: network to attack, in eval mode.
        steps: steps of each attack.
        bf16: also attack under bfloat16 autocast.
    """
    import foolbox

    pgd = PGD(EPS, STEP_SIZE, steps, start="none")
    foolbox_pgd = foolbox.attacks.LinfPGD(abs_stepsize=STEP_SIZE, steps=steps, random_start=False)
    wrapped = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    strided = to_memory_format(copy.deepcopy(network), torch.channels_last)

    def in_channels_last(x: Tensor, y: Tensor) -> Tensor:
        return pgd(strided, x.contiguous(memory_format=torch.channels_last), y)

    def in_bf16(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return in_channels_last(x, y)

    contestants: dict[str, Contestant] = {
        "foolbox": lambda x, y: foolbox_pgd(wrapped, x, y, epsilons=EPS)[1],
        "published loop": lambda x, y: published_pgd(network, x, y, steps),
        "ours, contiguous": lambda x, y: pgd(network, x, y),
        "ours, channels_last": in_channels_last,
    }
    return contestants | ({"ours, channels_last, bf16": in_bf16} if bf16 else {})


def training_step(
    attack: Callable[[nn.Module, Tensor, Tensor], Tensor],
    network: nn.Module,
    layout: torch.memory_format,
    bf16: bool = False,
) -> Contestant:
    """Return a step of adversarial training: attack in eval mode, loss in train mode, SGD; it returns the loss.

    Args:
        attack: attack of the training.
        network: network to train; it is copied.
        layout: memory layout of network and images.
        bf16: compute under bfloat16 autocast.
    """
    network = to_memory_format(copy.deepcopy(network), layout)
    optimizer = torch.optim.SGD(network.parameters(), 1e-6, 0.9, weight_decay=5e-4)

    def step(x: Tensor, y: Tensor) -> Tensor:
        x = x.contiguous(memory_format=layout)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            network.eval()
            adv = attack(network, x, y)
            network.train()
            optimizer.zero_grad()
            loss = cross_entropy(network(adv), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def trainers(network: nn.Module, steps: int, bf16: bool) -> dict[str, Contestant]:
    """Return steps of adversarial training, by name; arguments as in `attackers`."""
    pgd = PGD(EPS, STEP_SIZE, steps, start="none")
    contiguous, channels_last = torch.contiguous_format, torch.channels_last
    contestants = {
        "published loop": training_step(lambda net, x, y: published_pgd(net, x, y, steps), network, contiguous),
        "ours, contiguous": training_step(pgd, network, contiguous),
        "ours, channels_last": training_step(pgd, network, channels_last),
    }
    if bf16:
        contestants["ours, channels_last, bf16"] = training_step(pgd, network, channels_last, bf16=True)
    return contestants


def race(title: str, contestants: Mapping[str, Contestant], x: Tensor, y: Tensor, repeats: int) -> None:
    """Time the contestants in turn and print a table.

    Args:
        title: title of the table.
        contestants: functions of images and labels, by name.
        x: images.
        y: labels.
        repeats: number of rounds.
    """
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
    for name, own in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(seconds[first], own, strict=True))
        apart = (results[name].float() - results[first].float()).abs()
        print(f"{name:28}{len(x) / statistics.median(own):10.1f}{ratio:18.2f}{float(apart.max()):22.2g}", end="")
        print(f"  ({float((apart > 1e-3).float().mean()):.2%} of values differ by over 0.001)" if apart.dim() else "")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark with the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18", help="image classifier of conf/model")
    parser.add_argument("--batch", type=positive, default=64, help="images in a batch")
    parser.add_argument("--steps", type=positive, default=10, help="steps of the attack")
    parser.add_argument("--repeats", type=positive, default=3, help="rounds")
    parser.add_argument("--threads", type=not_negative, default=0, help="0: all cores")
    parser.add_argument("--bf16", action="store_true", help="also in bfloat16 autocast")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads or os.cpu_count() or 1)
    torch.manual_seed(0)
    network = instantiate(Run.compose(["method=f2at/pgd_at", f"model={given.model}"]).cfg, "model", **DIMS)
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.rand(64, 3, 32, 32))  # running statistics
    network.eval()
    x, y = torch.rand(given.batch, 3, 32, 32), torch.randint(0, 10, (given.batch,))
    layout = str(preferred_memory_format(torch.device("cpu"))).removeprefix("torch.").removesuffix("_format")
    capability = torch.backends.cpu.get_cpu_capability()
    print(f"{given.model}, batches of {given.batch}, {given.steps} steps, {torch.get_num_threads()} threads")
    print(f"CPU capability {capability}: training uses {layout}")
    race("attack", attackers(network, given.steps, given.bf16), x, y, given.repeats)
    title = "step of adversarial training (result: the loss)"
    race(title, trainers(network, given.steps, given.bf16), x, y, given.repeats)


if __name__ == "__main__":
    main()
