"""Time the loading of images: batches of this project beside torch's DataLoader, which prepares one image at a time.

    python -m scripts.bench_images [--repeats 5] [--images 50000] [--batch-size 128] [--threads 1]

An epoch of random bytes of CIFAR-10's size with its augmentation: 4 pixels of padding, a random crop, a random mirror
image, float in [0, 1]. The loaders take turns, so that other load on the machine hits all alike; medians over the
repeats are printed, and the ratios of times taken in the same turn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import DataLoader, Dataset

from datasets.images.augment import Augment
from datasets.images.loader import ImageLoader, ImageSet
from scripts.arguments import positive

CROP = 4
WORKERS = (0, 2)


class PerImage(Dataset):
    """Data set that does the same work one image at a time.

    Args:
        images: images and labels.
    """

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        image = self.images.images[index]
        top, left = torch.randint(2 * CROP + 1, (2,)).tolist()
        _, height, width = image.shape
        image = pad(image, (CROP,) * 4)[:, top : top + height, left : left + width]
        if torch.rand(()) < 0.5:
            image = image.flip(-1)
        return image.float().div(255), self.images.labels[index], index


def seconds(loader: Iterable) -> float:
    """Return the seconds of one epoch."""
    start = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - start


def main() -> None:
    """Time all loaders and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=positive, default=5)
    parser.add_argument("--images", type=positive, default=50_000)
    parser.add_argument("--batch-size", type=positive, default=128)
    parser.add_argument("--threads", type=positive, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    generator = torch.Generator().manual_seed(0)
    images = ImageSet(
        torch.randint(256, (arguments.images, 3, 32, 32), dtype=torch.uint8, generator=generator),
        torch.randint(10, (arguments.images,), generator=generator),
    )
    ours = ImageLoader(images, arguments.batch_size, shuffle=True, augment=Augment(crop=CROP, flip=True))
    loaders: dict[str, Iterable] = {"ours": ours}
    for workers in WORKERS:
        loaders[f"DataLoader, {workers} workers"] = DataLoader(
            PerImage(images), arguments.batch_size, shuffle=True, num_workers=workers
        )

    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"{arguments.images} images of 3 x 32 x 32, batches of {arguments.batch_size}, {arguments.threads} thread(s), "
        f"{os.cpu_count()} cores with load {load}, medians of {arguments.repeats} repeats taken in turn"
    )
    seconds(ours)  # warms up
    taken: dict[str, list[float]] = {name: [] for name in loaders}
    for repeat in range(arguments.repeats):
        ours.set_epoch(repeat)
        for name, loader in loaders.items():
            taken[name].append(seconds(loader))
    print(f"  {'an epoch of':<24}{'seconds':>9}{'images/s':>11}{'ours is':>10}")
    for name, times in taken.items():
        median = statistics.median(times)
        ratios = [theirs / mine for mine, theirs in zip(taken["ours"], times, strict=True)]
        print(
            f"  {name:<24}{median:9.3f}{arguments.images / median:11,.0f}{statistics.median(ratios):9.1f}x"
            f"   ({min(ratios):.1f} to {max(ratios):.1f})"
        )


if __name__ == "__main__":
    main()
