"""Milliseconds of a training iteration of FaMUS and what it is compared with, and of the passes that one is made of.

    python -m scripts.bench_famus [--steps 10] [--warmup 3] [--methods famus/ce,famus/mw_net,...] [model=wrn28_10 ...]

Images are random, of 3 x 32 x 32 in 10 classes; overrides are the runner's. The methods take turns, and a method's
figure is the median of its steps. A name may carry overrides: `famus/mw_net method.route=step`.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from datasets.images.base import ImageDataModule
from datasets.images.loader import ImageSet
from methods.famus.meta import along, cross_entropies, sample_losses
from runner.build import build
from runner.compose import compose

METHODS = (
    *("famus/ce", "famus/mw_net method.route=step", "famus method.route=step", "famus/mw_net", "famus"),
    *("famus method.gates.eligible=15", "famus/random_layers", "famus/l2r", "famus/l2r_famus"),
)


class RandomImages(ImageDataModule):
    """`count` random training images of 3 x 32 x 32 in 10 classes."""

    count = 4000

    def read(self) -> tuple[ImageSet, ImageSet, list[str]]:
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (self.count, 3, 32, 32), dtype=torch.uint8, generator=generator)
        part = ImageSet(images, torch.arange(self.count) % 10)
        return part, ImageSet(images[:100], part.labels[:100]), [str(i) for i in range(10)]


class Clock(Callback):
    """seconds: of each training step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.started = now()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seconds.append(now() - self.started)


def now() -> float:
    """Seconds; of the processor where one thread does all, as other programs do not count then."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    elif torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


def network_of(cfg: Any, data: RandomImages) -> torch.nn.Module:
    pl.seed_everything(0, verbose=False)
    return build(cfg, "model", **data.dims)


def steps_of(method: str, overrides: list[str], batch: int, steps: int) -> list[float]:
    """Seconds of each of the first steps."""
    name, *own = method.split()
    cfg = compose([f"method={name}", *overrides, *own])
    if "meta_batch_size" in cfg.method:
        cfg.method.meta_batch_size = batch
    data = RandomImages(batch_size=batch, meta=100, drop_last=True, noise={"kind": "symmetric", "rate": 0.4})
    data.setup()
    module = build(cfg, "method", network=network_of(cfg, data))
    module.prepare(data)
    clock = Clock()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_steps=steps, limit_val_batches=0, callbacks=[clock], enable_model_summary=False, **quiet)
    trainer.fit(module, data)
    return clock.seconds


def passes(overrides: list[str], batch: int, steps: int, warmup: int) -> dict[str, float]:
    """Median seconds of the passes that an iteration is made of."""
    cfg = compose(["method=famus/mw_net", *overrides])
    data = RandomImages()
    data.setup()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network_of(cfg, data).to(device).train()
    params = dict(network.named_parameters())
    x, y = torch.rand(batch, 3, 32, 32, device=device), torch.arange(batch, device=device) % 10
    every = {n: torch.ones_like(p) for n, p in params.items()}
    top = {n: every[n] for n in list(params)[-15:]}

    def losses() -> torch.Tensor:
        return sample_losses(network, params, x, y)

    def one_way(direction: dict[str, torch.Tensor]) -> Callable[[], Any]:
        return lambda: along(network, params, direction, lambda z: cross_entropies(z, y), x)

    what = {
        "forward": losses,
        "forward and backward": lambda: torch.autograd.grad(losses().mean(), list(params.values())),
        "forward, losses' change in a direction": one_way(every),
        "the same, direction in the last 15 tensors": one_way(top),
    }
    found: dict[str, list[float]] = {name: [] for name in what}
    for _ in range(warmup + steps):
        for name, run in what.items():
            started = now()
            run()
            found[name].append(now() - started)
    return {name: statistics.median(times[warmup:]) for name, times in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(given.threads)
    torch.backends.cudnn.benchmark = True
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {given.threads} threads"
    print(f"{device}, batches of {given.batch}, {' '.join(given.overrides)}; median milliseconds")
    for name, seconds in passes(given.overrides, given.batch, given.steps, given.warmup).items():
        print(f"  {1000 * seconds:8.1f}  {name}")
    methods = given.methods.split(",")
    found: dict[str, list[float]] = {method: [] for method in methods}
    for _ in range(given.rounds):
        for method in methods:
            times = steps_of(method, given.overrides, given.batch, given.warmup + given.steps)
            found[method] += times[given.warmup :]
    first = statistics.median(found[methods[0]])
    for method, times in found.items():
        median = statistics.median(times)
        print(f"  {1000 * median:8.1f}  {median / first:5.2f} x {methods[0]}  {method}")


if __name__ == "__main__":
    main()
