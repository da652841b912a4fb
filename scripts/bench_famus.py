"""Measure time and memory of a training iteration of cross-entropy, MW-Net and FaMUS.

    python -m scripts.bench_famus [--models preact_resnet18_stem wrn16_2] [--batch 16] [--rounds 3] [--threads 0]
                                  [--eligible 15] [--budget 4]

Images are random, 3 x 32 x 32 in 10 classes. The device is a GPU if there is one. An iteration is a virtual step, a
step of the weight net (and of the gates) on as many clean images, and the actual step. The published MW-Net loop has a
forward pass of its own for the virtual step, and differentiates that step; the implementation here shares one forward
pass between both steps. "unrolled" differentiates the virtual step as published, "forward mode" computes the same
gradient by forward-mode differentiation. FaMUS has gates for the last `eligible` tensors, the classifier's included, as
in its published code. They are sampled in every iteration, so its times vary.

The contestants take turns. The times are medians, and the ratios are medians of the ratios of each round. With one
thread they are processor times, so other programs do not count. Peak memory is what two iterations add to the memory
held before them, in a process of its own for each contestant. On a CPU it is read from /proc, so on Linux only.
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

from methods.architectures.wide_resnet import WideResNet
from methods.famus.gates import Gates
from methods.famus.meta_gradient import (
    Params,
    VirtualStep,
    WeightedBatch,
    cross_entropies,
    forward_mode_meta_gradient,
    per_sample_losses,
    sgd_step,
    unrolled_meta_gradient,
)
from methods.famus.mw_net import WeightNet
from methods.famus.sample_weights import normalized_weights
from runner.config.address import Run
from runner.config.instantiate import instantiate
from scripts.arguments import not_negative, positive, positive_number

DIMS: dict[str, Any] = {"in_channels": 3, "num_classes": 10, "image_size": 32, "mean": [0.5] * 3, "std": [0.25] * 3}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LR = 1e-3
PLAIN, PUBLISHED = "cross-entropy", "MW-Net, published"


def build_network(model: str) -> nn.Module:
    """Return a network: a model of conf/, or any wrn<depth>_<widening>."""
    depth, _, widen = model.removeprefix("wrn").partition("_")
    if model.startswith("wrn") and depth.isdigit() and widen.isdigit():
        return WideResNet(depth=int(depth), widen=int(widen), **DIMS)
    return instantiate(Run.compose(["method=famus/ce", f"model={model}"]).cfg, "model", **DIMS)


class Benchmark:
    """One training iteration of each contestant, on the same network and batches.

    Args:
        model: model of conf/, or wrn<depth>_<widening>.
        batch_size: number of training images, and of clean images.
        eligible: number of last tensors that FaMUS may open, the classifier's included; 0: all.
        budget: number of gates that should be open.
    """

    def __init__(self, model: str, batch_size: int, eligible: int, budget: float) -> None:
        torch.manual_seed(0)
        self.network = build_network(model).to(DEVICE).train()
        self.weight_net = WeightNet().to(DEVICE)
        self.gates = Gates(self.network, budget=budget, eligible=eligible or None).to(DEVICE)
        images = torch.rand(2, batch_size, 3, 32, 32, device=DEVICE)
        labels = torch.randint(10, (2, batch_size), device=DEVICE)
        self.train, self.clean = zip(images, labels, strict=True)
        self.optimizer = torch.optim.SGD(self.network.parameters(), LR, 0.9, weight_decay=5e-4)
        self.weight_net_optimizer = torch.optim.SGD(self.weight_net.parameters(), LR, 0.9)
        self.gate_optimizer = torch.optim.SGD(self.gates.parameters(), 0.1, 0.9)

    def contestants(self) -> dict[str, Callable[[], None]]:
        """Return an iteration of each contestant by its name."""
        return {
            PLAIN: lambda: self.update_network(self.losses().mean()),
            PUBLISHED: self.published_mw_net,
            "MW-Net, unrolled": lambda: self.meta_iteration(unrolled=True, gated=False),
            "MW-Net, forward mode": lambda: self.meta_iteration(unrolled=False, gated=False),
            "FaMUS, unrolled": lambda: self.meta_iteration(unrolled=True, gated=True),
            "FaMUS, forward mode": lambda: self.meta_iteration(unrolled=False, gated=True),
        }

    def losses(self) -> Tensor:
        """Return the per-sample losses of the training batch."""
        x, y = self.train
        return cross_entropies(self.network(x), y)

    def weighted_loss(self, losses: Tensor) -> Tensor:
        """Return the loss weighted by the weight net."""
        return (normalized_weights(self.weight_net(losses)).detach() * losses).sum()

    def update_network(self, loss: Tensor) -> None:
        """Take a step of the network."""
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def published_mw_net(self) -> None:
        """Run an iteration of the published loop: the virtual step has a forward pass of its own, and is unrolled."""
        params = dict(self.network.named_parameters())
        losses = per_sample_losses(self.network, params, *self.train)
        batch = WeightedBatch(*self.train, losses, normalized_weights(self.weight_net(losses)))
        after = sgd_step(params, batch.gradients(params, create_graph=True), LR)
        self.weight_net_optimizer.zero_grad()
        meta_loss = per_sample_losses(self.network, after, *self.clean).mean()
        meta_loss.backward(inputs=list(self.weight_net.parameters()))
        self.weight_net_optimizer.step()
        self.update_network(self.weighted_loss(self.losses()))

    def meta_iteration(self, unrolled: bool, gated: bool) -> None:
        """Run the iteration of `MetaWeightNet`.

        Args:
            unrolled: differentiate the virtual step; else use forward mode.
            gated: restrict the meta gradient by gates (FaMUS).
        """
        params, losses = dict(self.network.named_parameters()), self.losses()
        batch = WeightedBatch(*self.train, losses, normalized_weights(self.weight_net(losses)))
        gradients = batch.gradients(params, create_graph=unrolled)
        step = self.virtual_step(gradients) if gated else VirtualStep(LR)
        if unrolled:
            objective = unrolled_meta_gradient(self.network, params, gradients, self.clean, step)
        else:
            _, slopes, gate_term = forward_mode_meta_gradient(
                self.network, params, gradients, batch.x, batch.losses_of, self.clean, step
            )
            objective = (slopes * batch.weights).sum() + gate_term
        optimizers = [self.weight_net_optimizer]
        if step.gates is not None:
            objective = objective + 0.1 * self.gates.budget_loss(step.gates)
            optimizers.append(self.gate_optimizer)
        for optimizer in optimizers:
            optimizer.zero_grad()
        objective.backward(inputs=[p for optimizer in optimizers for p in optimizer.param_groups[0]["params"]])
        for optimizer in optimizers:
            optimizer.step()
        self.update_network(self.weighted_loss(losses))

    def virtual_step(self, gradients: Params) -> VirtualStep:
        """Sample the gates, and return the settings of a gated virtual step."""
        gates = self.gates({name: g.detach() for name, g in gradients.items()})
        return VirtualStep(LR, gates, self.gates.ungated, alignment_weight=0.1)


def now() -> float:
    """Return the time in seconds; the processor time with one thread on a CPU."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    elif torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


def added_memory(run: Callable[[], None]) -> float:
    """Return the peak memory in MB that two runs add to what the process holds before."""
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        run()
        run()
        return (torch.cuda.max_memory_allocated() - held) / 2**20
    held = kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    run()
    run()
    return (kilobytes("VmHWM") - held) / 2**10


def kilobytes(name: str) -> int:
    """Return the memory of this process: VmRSS, held now, or VmHWM, the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def peak_memory(options: argparse.Namespace, model: str, name: str) -> float:
    """Return the `added_memory` of a contestant in a process of its own."""
    flags = [f"--{key}={getattr(options, key)}" for key in ("batch", "threads", "eligible", "budget")]
    command = [sys.executable, "-m", "scripts.bench_famus", *flags, "--models", model, "--peak-of", name]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def compare(options: argparse.Namespace, model: str) -> None:
    """Time all contestants on a model, and print a line for each."""
    benchmark = Benchmark(model, options.batch, options.eligible, options.budget)
    contestants = benchmark.contestants()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(options.rounds + 1):
        for name, run in contestants.items():
            started = now()
            run()
            if turn:  # the first round is a warm-up
                seconds[name].append(now() - started)
    million = sum(p.numel() for p in benchmark.network.parameters()) / 1e6
    print(f"\n{model}, {million:.1f} M parameters")
    print(f"{'':20}{'ms':>8}{'x ' + PLAIN:>18}{'speed-up on ' + PUBLISHED:>32}{'peak MB':>10}")
    for name, taken in seconds.items():
        slower = statistics.median(a / b for a, b in zip(taken, seconds[PLAIN], strict=True))
        faster = statistics.median(a / b for a, b in zip(seconds[PUBLISHED], taken, strict=True))
        peak = peak_memory(options, model, name)
        print(f"{name:20}{1e3 * statistics.median(taken):8.0f}{slower:18.2f}{faster:32.2f}{peak:10.0f}", flush=True)


def main() -> None:
    """Parse the command line, and run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models",
        nargs="+",
        default=["preact_resnet18_stem", "wrn16_2"],
        help="models of conf/, or wrn<depth>_<widening>",
    )
    parser.add_argument("--batch", type=positive, default=16, help="number of training images, and of clean images")
    parser.add_argument("--rounds", type=positive, default=3, help="number of timed rounds")
    parser.add_argument("--threads", type=not_negative, default=0, help="number of threads; 0: all cores")
    parser.add_argument("--eligible", type=not_negative, default=15, help="last tensors that FaMUS may open; 0: all")
    parser.add_argument("--budget", type=positive_number, default=4, help="number of gates that should be open")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads or os.cpu_count() or 1)
    if options.peak_of:
        benchmark = Benchmark(options.models[0], options.batch, options.eligible, options.budget)
        print(added_memory(benchmark.contestants()[options.peak_of]))
        return
    device = torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(
        f"{device}, batches of {options.batch}, gates on {options.eligible or 'all'} tensors, {options.rounds} rounds"
    )
    for model in options.models:
        compare(options, model)


if __name__ == "__main__":
    main()
