"""Passes of leaky integrate-and-fire neurons as Triton kernels: a program takes a block of neurons through all steps.

On a machine without a GPU, `TRITON_INTERPRET=1` runs the same kernels in Triton's interpreter on CPU tensors.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from methods.esvae.lif_eager import HALF_WIDTH, Dynamics

BLOCK = 1024


@triton.jit  # Triton gives annotations a meaning of its own
def _forward(  # type: ignore[no-untyped-def]
    current, potential, spikes, decay, threshold, count, stride, steps: tl.constexpr, block: tl.constexpr
):
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = place < count
    left = tl.zeros([block], tl.float32)
    for t in range(steps):
        u = left + tl.load(current + t * stride + place, mask=inside, other=0.0)
        fires = u > threshold
        tl.store(potential + t * count + place, u, mask=inside)
        tl.store(spikes + t * count + place, fires.to(tl.float32), mask=inside)
        left = tl.where(fires, 0.0, decay * u)


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    grad,
    potential,
    result,
    decay,
    threshold,
    center,
    half_width,
    count,
    repeated: tl.constexpr,
    steps: tl.constexpr,
    block: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = place < count
    carry = tl.zeros([block], tl.float32)
    total = tl.zeros([block], tl.float32)
    for back in range(steps):
        t = steps - 1 - back
        u = tl.load(potential + t * count + place, mask=inside, other=0.0)
        spike_grad = tl.load(grad + t * count + place, mask=inside, other=0.0) - decay * u * carry
        carry = tl.where(tl.abs(u - center) < half_width, spike_grad, 0.0) + tl.where(u > threshold, 0.0, decay * carry)
        if repeated:
            total += carry
        else:
            tl.store(result + t * count + place, carry, mask=inside)
    if repeated:
        tl.store(result + place, total, mask=inside)


class TritonKernels:
    """Passes for float32 tensors on a GPU. Products may be fused with sums, so last bits may differ from eager."""

    name = "Triton"

    def forward(self, current: Tensor, steps: int, dynamics: Dynamics) -> tuple[Tensor, Tensor]:
        """Return the potentials and the spikes, both (T, M), of the currents (T or 1, M)."""
        count = current.shape[1]
        potential = current.new_empty(steps, count)
        spikes = torch.empty_like(potential)
        stride = 0 if len(current) == 1 else count
        grid = (triton.cdiv(count, BLOCK),)
        _forward[grid](
            current, potential, spikes, dynamics.decay, dynamics.threshold, count, stride, steps=steps, block=BLOCK
        )
        return potential, spikes

    def backward(self, grad: Tensor, potential: Tensor, rows: int, dynamics: Dynamics) -> Tensor:
        """Return the gradient of the currents (rows, M) from that of the spikes (T, M)."""
        steps, count = potential.shape
        result = potential.new_empty(rows, count)
        grid = (triton.cdiv(count, BLOCK),)
        constants = {"repeated": rows == 1 and steps > 1, "steps": steps, "block": BLOCK}
        _backward[grid](grad, potential, result, *dynamics, HALF_WIDTH, count, **constants)
        return result
