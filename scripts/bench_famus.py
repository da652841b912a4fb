"""Time and memory of a training iteration: cross-entropy, MW-Net as published, and MW-Net and FaMUS by either route.

    python -m scripts.bench_famus [--models preact_resnet18_stem wrn16_2] [--batch 16] [--rounds 3] [--threads 0]
                                  [--eligible 15] [--budget 4]

Images are random, of 3 x 32 x 32 in 10 classes; on a GPU where there is one. An iteration is a virtual step, a step of
the weight net (and of the gates) by as many clean images, and the actual step. The published loop has a forward pass of
its own for the virtual step, and differentiates that step; ours shares one forward pass between both steps. Routes:
`step` differentiates the virtual step as published, `direction` finds the same gradient by forward-mode
differentiation. FaMUS has gates for the last `eligible` tensors, the classifier's included, as its published code does;
they decide anew in every iteration, so its times vary.

The contestants take turns; medians of the times, and of the ratios of each round. With one thread they are processor
times, so that other programs do not count. Peak memory is what two iterations add to what is held before them, in a
process of its own for each contestant (on a CPU it is read from /proc, so on Linux alone).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from methods.architectures.wide_resnet import WideResNet
from methods.famus.gates import Gates
from methods.famus.meta import by_direction, sample_losses, stepped, through_step
from methods.famus.weighting import WeightNet, shares
from runner.config.address import Run
from runner.config.instantiate import instantiate

DIMS = {"in_channels": 3, "num_classes": 10, "image_size": 32, "mean": [0.5] * 3, "std": [0.25] * 3}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LR = 1e-3
PLAIN, BASE = "cross-entropy", "MW-Net, published"


def network_of(model: str) -> nn.Module:
    """A model of conf/, or any wrn<depth>_<widening>."""
    depth, _, widen = model.removeprefix("wrn").partition("_")
    if model.startswith("wrn") and depth.isdigit() and widen.isdigit():
        return WideResNet(depth=int(depth), widen=int(widen), **DIMS)
    return instantiate(Run.compose(["method=famus/ce", f"model={model}"]).cfg, "model", **DIMS)


class Contest:
    """A network, a weight net, gates, and a batch of each kind; a contestant is an iteration on them."""

    def __init__(self, model: str, batch: int, eligible: int, budget: float) -> None:
        torch.manual_seed(0)
        self.network = network_of(model).to(DEVICE).train()
        self.weight_net = WeightNet().to(DEVICE)
        self.gates = Gates(self.network, budget=budget, eligible=eligible or None).to(DEVICE)
        images, labels = torch.rand(2, batch, 3, 32, 32, device=DEVICE), torch.randint(10, (2, batch), device=DEVICE)
        self.train, self.clean = zip(images, labels, strict=True)
        self.actual = torch.optim.SGD(self.network.parameters(), LR, 0.9, weight_decay=5e-4)
        self.meta = torch.optim.SGD(self.weight_net.parameters(), LR, 0.9)
        self.gating = torch.optim.SGD(self.gates.parameters(), 0.1, 0.9)

    def contestants(self) -> dict[str, Callable[[], None]]:
        return {
            PLAIN: lambda: self.descend(self.losses().mean()),
            BASE: self.published,
            "MW-Net, step": lambda: self.ours("step", gated=False),
            "MW-Net, direction": lambda: self.ours("direction", gated=False),
            "FaMUS, step": lambda: self.ours("step", gated=True),
            "FaMUS, direction": lambda: self.ours("direction", gated=True),
        }

    def losses(self) -> Tensor:
        x, y = self.train
        return cross_entropy(self.network(x), y, reduction="none")

    def weighed(self, losses: Tensor) -> Tensor:
        return (shares(self.weight_net(losses), normalise=True).detach() * losses).sum()

    def descend(self, loss: Tensor) -> None:
        self.actual.zero_grad()
        loss.backward()
        self.actual.step()

    def published(self) -> None:
        """Virtual step on a forward pass of its own, differentiated; weight net; actual step."""
        params = dict(self.network.named_parameters())
        losses = sample_losses(self.network, params, *self.train)
        total = (shares(self.weight_net(losses), normalise=True) * losses).sum()
        found = torch.autograd.grad(total, list(params.values()), create_graph=True)
        after = stepped(params, dict(zip(params, found, strict=True)), LR)
        self.meta.zero_grad()
        sample_losses(self.network, after, *self.clean).mean().backward(inputs=list(self.weight_net.parameters()))
        self.meta.step()
        self.descend(self.weighed(self.losses()))

    def ours(self, route: str, gated: bool) -> None:
        """What `MetaWeightNet` does in a training step."""
        params, losses = dict(self.network.named_parameters()), self.losses()
        share, by_step = shares(self.weight_net(losses), normalise=True), route == "step"
        total = ((share if by_step else share.detach()) * losses).sum()
        found = torch.autograd.grad(total, list(params.values()), retain_graph=True, create_graph=by_step)
        gradients = dict(zip(params, found, strict=True))
        more: dict[str, Any] = {"lr": LR}
        if gated:
            opened = self.gates({name: g.detach() for name, g in gradients.items()})
            more |= {"opened": opened, "always": self.gates.always, "alignment": 0.1}
        if by_step:
            target = through_step(self.network, params, gradients, self.clean, **more)
        else:
            _, slope, term = by_direction(self.network, params, gradients, self.train, self.clean, **more)
            target = (slope * share).sum() + term
        learners = [self.meta]
        if gated:
            target = target + 0.1 * self.gates.count_loss(opened)
            learners.append(self.gating)
        for learner in learners:
            learner.zero_grad()
        target.backward(inputs=[p for learner in learners for p in learner.param_groups[0]["params"]])
        for learner in learners:
            learner.step()
        self.descend(self.weighed(losses))


def now() -> float:
    """Seconds."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    elif torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


def added_memory(run: Callable[[], None]) -> float:
    """MB that two runs add, at most, to what this process holds before."""
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        run(), run()
        return (torch.cuda.max_memory_allocated() - held) / 2**20
    held = kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    run(), run()
    return (kilobytes("VmHWM") - held) / 2**10


def kilobytes(name: str) -> int:
    """Of this process: VmRSS, held now; VmHWM, held at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def peak_of(given: argparse.Namespace, model: str, name: str) -> float:
    """`added_memory` of a contestant in a process of its own."""
    options = [f"--{key}={getattr(given, key)}" for key in ("batch", "threads", "eligible", "budget")]
    command = [sys.executable, "-m", "scripts.bench_famus", *options, "--models", model, "--peak-of", name]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def race(given: argparse.Namespace, model: str) -> None:
    contest = Contest(model, given.batch, given.eligible, given.budget)
    contestants = contest.contestants()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(given.rounds + 1):
        for name, run in contestants.items():
            started = now()
            run()
            if turn:  # the first one warms up
                seconds[name].append(now() - started)
    million = sum(p.numel() for p in contest.network.parameters()) / 1e6
    print(f"\n{model}, {million:.1f} M parameters")
    print(f"{'':20}{'ms':>8}{'x ' + PLAIN:>18}{'speed-up on ' + BASE:>32}{'peak MB':>10}")
    for name, taken in seconds.items():
        slower = statistics.median(a / b for a, b in zip(taken, seconds[PLAIN], strict=True))
        faster = statistics.median(a / b for a, b in zip(seconds[BASE], taken, strict=True))
        peak = peak_of(given, model, name)
        print(f"{name:20}{1e3 * statistics.median(taken):8.0f}{slower:18.2f}{faster:32.2f}{peak:10.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="+", default=["preact_resnet18_stem", "wrn16_2"], help="of conf/, or wrn<d>_<k>"
    )
    parser.add_argument("--batch", type=int, default=16, help="training images, and as many clean ones")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--eligible", type=int, default=15, help="last tensors that FaMUS may open; 0: all")
    parser.add_argument("--budget", type=float, default=4, help="gates that should be open")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads or os.cpu_count() or 1)
    if given.peak_of:
        contest = Contest(given.models[0], given.batch, given.eligible, given.budget)
        print(added_memory(contest.contestants()[given.peak_of]))
        return
    where = torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{where}, batches of {given.batch}, gates on {given.eligible or 'all'} tensors, {given.rounds} rounds")
    for model in given.models:
        race(given, model)


if __name__ == "__main__":
    main()
