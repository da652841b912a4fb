"""What an iteration costs: cross-entropy, MW-Net and FaMUS by either route of the meta gradient, and as published.

    python -m scripts.bench_meta [--models preact_resnet18 wrn16_2] [--batch 16] [--rounds 3] [--threads 0]
                                 [--eligible 15] [--budget 4]

An iteration is a virtual step, a step of the weight net (and of the gates) by as many clean images, and the actual
step. The published loop has a forward pass of its own for the virtual step and differentiates it twice; ours has one
for both steps. FaMUS holds the meta gradient to gates of the last `eligible` tensors, classifier included, as the
published code does (0: of all); they decide anew in every iteration, so its times vary. The contestants take turns;
medians of the times and of the ratios of each round; with one thread they are the processor's, so that other programs
do not count. Peak memory is what two iterations add, at most, to what a fresh process of each contestant holds before
them, as the operating system counts it.
"""

from __future__ import annotations

import argparse
import json
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
from runner.address import Run
from runner.build import build

DIMS = {"in_channels": 3, "num_classes": 10, "image_size": 32, "mean": [0.5] * 3, "std": [0.25] * 3}
BASE = "MW-Net, published loop"
Iteration = Callable[[], Tensor]


def network_of(model: str) -> nn.Module:
    """A model of conf/, or wrn<depth>_<widening>."""
    depth, found, widen = model.removeprefix("wrn").partition("_")
    if model.startswith("wrn") and found and depth.isdigit() and widen.isdigit():
        return WideResNet(depth=int(depth), widen=int(widen), **DIMS).train()
    return build(Run.compose(["method=famus/ce", f"model={model}"]).cfg, "model", **DIMS).train()


class Contest:
    """A network, a weight net, gates, and a batch of each kind; every contestant is an iteration on them."""

    def __init__(self, model: str, batch: int, eligible: int, budget: float) -> None:
        torch.manual_seed(0)
        self.network, self.weight_net = network_of(model), WeightNet()
        self.gates = Gates(self.network, budget=budget, eligible=eligible or None)
        self.train, self.clean = ((torch.rand(batch, 3, 32, 32), torch.randint(0, 10, (batch,))) for _ in range(2))
        self.actual = torch.optim.SGD(self.network.parameters(), 1e-3, 0.9, weight_decay=5e-4)
        self.meta = torch.optim.SGD(self.weight_net.parameters(), 1e-3, 0.9)
        self.gating = torch.optim.SGD(self.gates.parameters(), 0.1, 0.9)

    def iterations(self) -> dict[str, Iteration]:
        return {
            BASE: self.published,
            "cross-entropy": self.plain,
            "MW-Net, step": lambda: self.ours("step", gated=False),
            "MW-Net, direction": lambda: self.ours("direction", gated=False),
            "FaMUS, step": lambda: self.ours("step", gated=True),
            "FaMUS, direction": lambda: self.ours("direction", gated=True),
        }

    def plain(self) -> Tensor:
        x, y = self.train
        loss = cross_entropy(self.network(x), y)
        self.actual.zero_grad()
        loss.backward()
        self.actual.step()
        return loss

    def published(self) -> Tensor:
        params = dict(self.network.named_parameters())
        losses = sample_losses(self.network, params, *self.train)
        total = (shares(self.weight_net(losses), normalise=True) * losses).sum()
        found = torch.autograd.grad(total, list(params.values()), create_graph=True)
        after = stepped(params, dict(zip(params, found, strict=True)), 1e-3)
        sample_losses(self.network, after, *self.clean).mean().backward(inputs=list(self.weight_net.parameters()))
        self.meta.step()
        self.meta.zero_grad()
        x, y = self.train
        return self.descend(cross_entropy(self.network(x), y, reduction="none"))

    def ours(self, route: str, gated: bool) -> Tensor:
        params, (x, y) = dict(self.network.named_parameters()), self.train
        losses = cross_entropy(self.network(x), y, reduction="none")
        share, by_step = shares(self.weight_net(losses), normalise=True), route == "step"
        total = ((share if by_step else share.detach()) * losses).sum()
        found = torch.autograd.grad(total, list(params.values()), retain_graph=True, create_graph=by_step)
        gradients = dict(zip(params, found, strict=True))
        opened = self.gates({name: g.detach() for name, g in gradients.items()}) if gated else None
        more: dict[str, Any] = {"lr": 1e-3, "opened": opened, "always": self.gates.always if gated else ()}
        if by_step:
            target = through_step(self.network, params, gradients, self.clean, **more)
        else:
            _, slope, term = by_direction(self.network, params, gradients, self.train, self.clean, **more)
            target = (slope * share).sum() + term
        learners = [self.meta, self.gating] if gated else [self.meta]
        if opened is not None:
            target = target + 0.1 * self.gates.count_loss(opened)
        target.backward(inputs=[p for learner in learners for p in learner.param_groups[0]["params"]])
        for learner in learners:
            learner.step()
            learner.zero_grad()
        return self.descend(losses)

    def descend(self, losses: Tensor) -> Tensor:
        """The actual step, with the weights that the weight net gives now."""
        loss = (shares(self.weight_net(losses), normalise=True).detach() * losses).sum()
        self.actual.zero_grad()
        loss.backward()
        self.actual.step()
        return loss


def peak_of(given: argparse.Namespace, model: str, name: str) -> float:
    """MB, measured in a process of its own."""
    options = [f"--{key}={getattr(given, key)}" for key in ("batch", "threads", "eligible", "budget")]
    command = [sys.executable, "-m", "scripts.bench_meta", *options, "--models", model, "--peak-of", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout))


def measure_peak(contest: Contest, name: str) -> float:
    """MB that two iterations of one contestant add to what is held before (Linux)."""
    iterate = contest.iterations()[name]
    held = kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    for _ in range(2):
        iterate()
    return (kilobytes("VmHWM") - held) / 1024


def now() -> float:
    """Seconds."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def kilobytes(name: str) -> int:
    """Of this process: VmRSS, held now, or VmHWM, held at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def race(given: argparse.Namespace, model: str) -> None:
    contest = Contest(model, given.batch, given.eligible, given.budget)
    iterations = contest.iterations()
    seconds: dict[str, list[float]] = {name: [] for name in iterations}
    for turn in range(given.rounds + 1):
        for name, iterate in iterations.items():
            started = now()
            iterate()
            if turn:  # the first one warms up
                seconds[name].append(now() - started)
        print(f"\r{model}: round {turn} of {given.rounds}", end="", file=sys.stderr, flush=True)
    print("\r", end="", file=sys.stderr)
    million = sum(p.numel() for p in contest.network.parameters()) / 1e6
    print(f"\n{model} ({million:.1f} M parameters), batches of {given.batch}, {torch.get_num_threads()} threads")
    print(f"{'':26}{'ms':>8}{'faster than ' + BASE:>36}{'x cross-entropy':>17}{'peak MB':>9}")
    for name, taken in seconds.items():
        faster, slower = (
            statistics.median(a / b for a, b in zip(*pair, strict=True))
            for pair in ((seconds[BASE], taken), (taken, seconds["cross-entropy"]))
        )
        peak = peak_of(given, model, name)
        print(f"{name:26}{1e3 * statistics.median(taken):8.0f}{faster:36.2f}{slower:17.2f}{peak:9.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["preact_resnet18", "wrn16_2"], help="of conf/, or wrn<d>_<k>")
    parser.add_argument("--batch", type=int, default=16, help="training images, and as many clean ones")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--eligible", type=int, default=15, help="last tensors that FaMUS may open; 0: all")
    parser.add_argument("--budget", type=float, default=4, help="gates that should be open")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads or os.cpu_count() or 1)
    if given.peak_of:
        print(
            json.dumps(measure_peak(Contest(given.models[0], given.batch, given.eligible, given.budget), given.peak_of))
        )
        return
    for model in given.models:
        race(given, model)


if __name__ == "__main__":
    main()
