"""Time ESVAE's training and FSVAE's generation beside the published arithmetic, SpikingJelly and snnTorch.

    python -m scripts.bench_esvae [--batch 16] [--steps 16] [--repeats 3] [--threads 1] [--no-memory]

(a) A training step of ESVAE (32 x 32, one channel) beside the official loop: time last, Conv3d with kernel 1 in time,
in-place writes into the spikes. Same weights, same random numbers; spikes and losses are compared first. Peak memory
of each in a process of its own. (b) The LIF neurons alone. (c) Generation by FSVAE with the state of the neurons beside
the run of each prefix. Contestants take turns; times are seconds of CPU of this process, medians; ratios are printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from methods.esvae.divergences import gaussian_mmd
from methods.esvae.fsvae import FSVAE
from methods.esvae.lif import LIF, kernels_for, lif
from methods.esvae.lif_eager import EAGER, Dynamics
from methods.esvae.networks import ESVAE
from methods.esvae.sampling import bernoulli_spikes
from scripts.arguments import positive
from tests.methods.esvae import official

Step = Callable[[], Tensor]


def training_steps(batch: int, steps: int) -> dict[str, Step]:
    """Return a forward and backward pass of each contestant; they return the loss."""
    torch.manual_seed(0)
    network = ESVAE(1, 32, latent_dim=32, steps=steps)
    published = official.Published(network)
    x = torch.rand(batch, 1, 32, 32) * 2 - 1
    noise, uniform = torch.randn(batch, 32), torch.rand(batch, 32, steps)

    def ours() -> Tensor:
        network.zero_grad()
        rates = network.representation(x)
        prior = network.prior(noise).sigmoid()
        image = network.decode(bernoulli_spikes(rates, uniform.movedim(-1, 0)))
        loss = mse_loss(image, x) + 0.001 * gaussian_mmd(rates, prior)
        loss.backward()
        return loss.detach()

    def theirs() -> Tensor:
        network.zero_grad()
        _, _, image, rates, prior = published(x, noise, uniform)
        loss = mse_loss(image, x) + 0.001 * official.mmd(rates, prior)
        loss.backward()
        return loss.detach()

    return {"ours": ours, "as published": theirs}


def lif_steps(batch: int, steps: int) -> dict[str, Step]:
    """Return a forward and backward pass of the neurons of the largest layer, for each implementation at hand."""
    current = torch.randn(steps, batch, 32, 32, 32) * 0.3
    grad = torch.randn_like(current)
    dynamics = Dynamics(center=0.2)

    def run(neurons: Callable[[Tensor], Tensor], x: Tensor, g: Tensor) -> Step:
        def step() -> Tensor:
            leaf = x.detach().requires_grad_()
            spikes = neurons(leaf)
            spikes.backward(g)
            return spikes.detach().mean()

        return step

    last, last_grad = current.movedim(0, -1).contiguous(), grad.movedim(0, -1).contiguous()
    name = kernels_for("cpu", torch.float32).name
    contestants = {
        f"ours, {name}": run(lambda x: lif(x, steps, dynamics), current, grad),
        "ours, eager": run(lambda x: lif(x, steps, dynamics, EAGER), current, grad),
        "as published": run(lambda x: official.lif_loop(x, 0.2), last, last_grad),
    }
    if find_spec("spikingjelly") and find_spec("loguru"):
        neurons = LIF(surrogate="threshold", backend="spikingjelly")
        contestants["SpikingJelly"] = run(neurons, current, grad)
    if find_spec("snntorch"):
        contestants["snnTorch"] = run(_snntorch_loop(), current, grad)
    return contestants


def _snntorch_loop() -> Callable[[Tensor], Tensor]:
    import snntorch

    neuron = snntorch.Leaky(beta=0.25, threshold=0.2, reset_mechanism="zero")

    def run(x: Tensor) -> Tensor:
        potential, spikes = neuron.init_leaky(), []
        for current in x:
            fired, potential = neuron(current, potential)
            spikes.append(fired)
        return torch.stack(spikes)

    return run


def generation_steps(count: int, steps: int) -> dict[str, Step]:
    """Return the two ways to draw latents from FSVAE's prior."""
    torch.manual_seed(0)
    network = FSVAE(1, 32, steps=steps).eval()
    index = torch.randint(20, (steps, count, 128))

    def stateful() -> Tensor:
        with torch.no_grad():
            return network.sampled_by_step(index)

    def prefix() -> Tensor:
        with torch.no_grad():
            return network.sampled_by_prefix(index)

    return {"with state": stateful, "prefix re-run": prefix}


def compare(contestants: dict[str, Step], repeats: int, unit: float, what: str) -> None:
    """Run the contestants in turns, and print their medians and ratios to the first."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for step in contestants.values():
        step()  # compiles and allocates
    for repeat in range(repeats):
        for name in sorted(contestants, reverse=repeat % 2 == 1):
            started = time.process_time()
            contestants[name]()
            seconds[name].append(time.process_time() - started)
    first, *_ = contestants
    for name, values in seconds.items():
        median = statistics.median(values)
        ratio = statistics.median(b / a for a, b in zip(seconds[first], values, strict=True))
        print(f"  {name:<24}{median:9.3f} s {unit / median:10.1f} {what}/s   {ratio:6.2f} x", flush=True)


def peak_memory(contestant: str, batch: int, steps: int) -> float:
    """Return the memory in GiB that two training steps of a contestant take, measured in a process of its own."""
    command = [sys.executable, "-m", "scripts.bench_esvae", "--batch", str(batch), "--steps", str(steps)]
    done = subprocess.run([*command, "--only", contestant], capture_output=True, text=True, check=True)
    return float(done.stdout)


def print_own_memory(contestant: str, batch: int, steps: int) -> None:
    """Print by how many GiB this process grows in two training steps (Linux)."""
    step = training_steps(batch, steps)[contestant]
    Path("/proc/self/clear_refs").write_text("5")  # forget the largest memory so far, also that of the parent
    before = _largest_memory()
    step()
    step()
    print((_largest_memory() - before) / 2**20)


def _largest_memory() -> int:
    """Return the largest resident memory of this process in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def main() -> None:
    """Run the benchmark of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=positive, default=16)
    parser.add_argument("--steps", type=positive, default=16)
    parser.add_argument("--repeats", type=positive, default=3)
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    batch, steps = arguments.batch, arguments.steps
    if arguments.only:
        print_own_memory(arguments.only, batch, steps)
        return
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{arguments.threads} thread(s), {os.cpu_count()} cores with load {load}; batch {batch}, T = {steps}")
    print("(a) training step of ESVAE, 32 x 32")
    contestants = training_steps(batch, steps)
    ours, theirs = (step() for step in contestants.values())
    print(f"  losses {float(ours):.6f} and {float(theirs):.6f}")
    compare(contestants, arguments.repeats, batch, "images")
    if not arguments.no_memory:
        for name in contestants:
            print(f"  {name:<24}{peak_memory(name, batch, steps):9.2f} GiB")
    print("(b) LIF neurons, forward and backward")
    compare(lif_steps(batch, steps), arguments.repeats, batch, "images")
    print("(c) latents of FSVAE's prior, 128 dimensions")
    contestants = generation_steps(64, steps)
    print(f"  equal: {torch.equal(*(step() for step in contestants.values()))}")
    compare(contestants, arguments.repeats, 64, "samples")


if __name__ == "__main__":
    main()
