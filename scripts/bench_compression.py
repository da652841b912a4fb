"""Measure what compression is worth in time: latency of real kernels, Huffman codes, k-means.

    python -m scripts.bench_compression latency [--batch 1] [--repeats 15] [--width 16] [--no-int8]
    python -m scripts.bench_compression coding [--numbers 2000000]

latency: ResNet-20 in float32 against itself with channels pruned to half of the multiply-accumulates, against its
Tucker-2 decomposition, and against int8 by torchao; with random weights, 32x32 images, one thread, in turns. Compile
times are printed apart. The float32 network is also measured compiled, since int8 is compiled.
coding: Huffman coding and decoding in MB/s of symbols (one byte each), and k-means of numbers against scikit-learn's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from methods.architectures.resnet import ResNet
from methods.compression.coding import huffman
from methods.compression.coding.kmeans import kmeans_1d
from methods.compression.latency import speedup, summarize, time_in_turns
from methods.compression.layers import replace_layer, selected_layers
from methods.compression.lowrank.tucker import tucker_conv
from methods.compression.macs import count_macs
from scripts.arguments import positive


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    sub = commands.add_parser("latency")
    sub.add_argument("--batch", type=positive, default=1)
    sub.add_argument("--repeats", type=positive, default=15)
    sub.add_argument("--width", type=positive, default=16, help="channels of the first stage")
    sub.add_argument("--no-int8", action="store_true", help="leave out what must be compiled")
    sub = commands.add_parser("coding")
    sub.add_argument("--numbers", type=positive, default=2_000_000)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    {"latency": bench_latency, "coding": bench_coding}[given.command](given)


def resnet(width: int) -> nn.Module:
    """Return ResNet-20 of option B with random weights."""
    torch.manual_seed(0)
    dims = {"in_channels": 3, "num_classes": 10, "image_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3}
    return ResNet(blocks=[3, 3, 3], width=width, **dims).eval()  # type: ignore[arg-type]


def pruned(width: int, x: Tensor) -> nn.Module:
    """Return the widest narrower network of at most half of the multiply-accumulates."""
    target = count_macs(resnet(width), x[:1]) / 2
    return next(net for w in range(width - 1, 0, -1) if count_macs(net := resnet(w), x[:1]) <= target)


def low_rank(width: int) -> nn.Module:
    """Return the network with each 3x3 convolution but the first in Tucker-2 form at half of the ranks."""
    network = resnet(width)
    for name, layer in selected_layers(network, ["stem"], (nn.Conv2d,)).items():
        if layer.kernel_size == (3, 3):
            replace_layer(network, name, tucker_conv(layer, layer.out_channels // 2, layer.in_channels // 2))
    return network


def compiled(name: str, network: nn.Module, x: Tensor) -> Callable[[], object]:
    """Return a call of a network compiled by Inductor with frozen weights, and print the time of compilation."""
    import torch._inductor.config as inductor

    inductor.freezing = True
    started = time.perf_counter()
    function = torch.compile(network)
    with torch.inference_mode():
        function(x)
        function(x)
    print(f"compile time of {name}: {time.perf_counter() - started:.1f} s")
    return lambda: function(x)


def bench_latency(given: argparse.Namespace) -> None:
    """Print latencies and ratios."""
    x = torch.rand(given.batch, 3, 32, 32)
    dense = resnet(given.width)
    networks = {"dense": dense, "channel-pruned": pruned(given.width, x), "Tucker-2": low_rank(given.width)}
    macs = {name: count_macs(network, x[:1]) for name, network in networks.items()}
    calls: dict[str, Callable[[], object]] = {name: (lambda net=net: net(x)) for name, net in networks.items()}
    if not given.no_int8:
        from methods.compression.quantization.int8 import convert, prepare

        prepared = prepare(dense, torch.rand(2, 3, 32, 32), qat=False)
        with torch.no_grad():
            prepared(torch.rand(32, 3, 32, 32))
        int8 = convert(prepared, dense, x)
        calls["dense, compiled"] = compiled("dense", dense, x)
        calls["int8, compiled"] = compiled("int8", int8.graph, x)
        macs |= {"dense, compiled": macs["dense"], "int8, compiled": macs["dense"]}
    with torch.inference_mode():
        times = time_in_turns(calls, given.repeats, 0.05)
    print(f"batch {given.batch}, one thread, CPU capability {torch.backends.cpu.get_cpu_capability()}")
    for name in calls:
        p50, p90, iqr = summarize(times[name])
        base = "dense, compiled" if name.startswith("int8") else "dense"
        ratio, low, high = speedup(times[base], times[name])
        print(
            f"{name:16} p50 {p50:8.3f} ms  p90 {p90:8.3f}  IQR {iqr:7.3f}  {macs[name] / 1e6:6.2f} M MACs  "
            f"{ratio:.2f}x [{low:.2f}, {high:.2f}] of {base}"
        )


def bench_coding(given: argparse.Namespace) -> None:
    """Print the speed of Huffman codes and k-means, by seconds of the processor."""
    rng = np.random.default_rng(0)
    symbols = np.minimum(rng.geometric(0.15, given.numbers) - 1, 31)
    lengths = huffman.code_lengths(np.bincount(symbols, minlength=32))
    huffman.decode(huffman.encode(symbols[:9], lengths), lengths, 9)  # compiles the loops
    started = time.process_time()
    data = huffman.encode(symbols, lengths)
    encoded = time.process_time()
    assert np.array_equal(huffman.decode(data, lengths, len(symbols)), symbols)
    decoded = time.process_time()
    megabytes = len(symbols) / 1e6
    print(
        f"Huffman: {8 * len(data) / len(symbols):.2f} bits a symbol, encode "
        f"{megabytes / (encoded - started):.1f} MB/s, "
        f"decode {megabytes / (decoded - encoded):.1f} MB/s"
    )

    from sklearn.cluster import KMeans

    values = torch.from_numpy(rng.normal(0, 0.05, given.numbers // 10).astype(np.float32))
    started = time.process_time()
    ours = kmeans_1d(values, 64, iterations=50)
    middle = time.process_time()
    first = np.linspace(float(values.min()), float(values.max()), 64)[:, None]
    theirs = KMeans(64, init=first, n_init=1, max_iter=50, algorithm="lloyd").fit(values.numpy()[:, None])
    end = time.process_time()
    error = float((values - ours.centroids[ours.assignment]).square().sum())
    print(
        f"k-means of {len(values):,} numbers, 64 clusters: {middle - started:.3f} s, scikit-learn "
        f"{end - middle:.3f} s "
        f"({(end - middle) / (middle - started):.1f}x); squared error {error:.5f} and {theirs.inertia_:.5f}"
    )


if __name__ == "__main__":
    main()
