"""Divergences between posterior and prior, one for each family of autoencoders."""

from __future__ import annotations

import torch
from torch import Tensor

KERNELS = 5


def squared_distances(x: Tensor) -> Tensor:
    """Return the squared Euclidean distances (B, B) between the rows of x (B, D), through the Gram matrix.

    Distances within the rounding of the Gram matrix are 0, without a gradient.
    """
    squares = x.square().sum(1)
    sums = squares[:, None] + squares
    distances = sums - 2 * (x @ x.T)
    rounding = 8 * torch.finfo(x.dtype).eps * sums.detach()
    unknown = (distances <= rounding) | torch.eye(len(x), dtype=torch.bool, device=x.device)
    return distances.masked_fill(unknown, 0)


def gaussian_mmd(posterior: Tensor, prior: Tensor) -> Tensor:
    """Return the squared maximum mean discrepancy, as a biased V-statistic, under a sum of five Gaussian kernels.

    The bandwidths are b/4, b/2, b, 2b, 4b, where b is the mean squared distance between two of the 2N vectors; no
    gradient passes through b. The official code gives NaN for vectors that all coincide; here the result is 0. Computed
    in float32 at least, also under autocast.

    Args:
        posterior: firing rates of the encoded batch.
        prior: firing rates drawn from the prior.

    Shapes:
        posterior (N, D), prior (N, D) -> scalar.

    Raises:
        ValueError: the vectors are not finite.
    """
    n = len(posterior)
    both = torch.cat([posterior, prior])
    with torch.autocast(both.device.type, enabled=False):
        distances = squared_distances(both.float() if both.dtype in (torch.bfloat16, torch.float16) else both)
    bandwidth = distances.detach().sum() / ((2 * n) ** 2 - 2 * n)
    if not torch.isfinite(bandwidth):
        raise ValueError(
            f"the bandwidth of the MMD is {float(bandwidth)}: firing rates of the posterior or the prior are not "
            "finite. Training has diverged; lower method.lr"
        )
    smallest = bandwidth / 2 ** (KERNELS // 2) + 1e-12
    kernel = torch.stack([torch.exp(-distances / (smallest * 2**s)) for s in range(KERNELS)]).sum(0)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - kernel[:n, n:].mean() - kernel[n:, :n].mean()


def linear_mmd(posterior: Tensor, prior: Tensor) -> Tensor:
    """Return the squared distance of the means of posterior (N, D) and prior (N, D)."""
    return (posterior.mean(0) - prior.mean(0)).square().sum()


def postsynaptic_potential(spikes: Tensor, decay: float = 2.0) -> Tensor:
    """Return s_t = s_{t-1} + (x_t - s_{t-1}) / decay, with s_0 = 0, for x (T, ...) -> (T, ...)."""
    state, states = torch.zeros_like(spikes[0]), []
    for x in spikes:
        state = state + (x - state) / decay
        states.append(state)
    return torch.stack(states)


def psp_distance(posterior: Tensor, prior: Tensor) -> Tensor:
    """Return the mean squared difference of the postsynaptic potentials (FSVAE, section "MMD").

    Shapes:
        posterior (T, N, D), prior (T, N, D): firing probabilities -> scalar.
    """
    return (postsynaptic_potential(posterior) - postsynaptic_potential(prior)).square().mean()


def bernoulli_kl(posterior: Tensor, prior: Tensor, eps: float = 0.01) -> Tensor:
    """Return the divergence KL(q || p) of Bernoulli processes, summed over steps and dimensions, mean over samples.

    eps keeps the logarithms finite, as in the official code of FSVAE.

    Shapes:
        posterior (T, N, D), prior (T, N, D): firing probabilities -> scalar.
    """
    q, p = posterior, prior
    kl = q * ((q + eps) / (p + eps)).log() + (1 - q) * ((1 - q + eps) / (1 - p + eps)).log()
    return kl.sum((0, 2)).mean()


def bernoulli_rate_kl(posterior: Tensor, prior: Tensor, eps: float = 0.01) -> Tensor:
    """Return the divergence KL(r || p) of one step, of rates (N, D) and (N, D) in [0, 1]. An option of ours."""
    return bernoulli_kl(posterior[None], prior[None], eps)


def gaussian_kl(posterior: Tensor, prior: Tensor) -> Tensor:
    """Return KL(N(mu, sigma^2) || N(0, 1)), summed over dimensions, mean over samples.

    Args:
        posterior: means and log-variances, stacked.
        prior: unused; the prior is the standard normal distribution.

    Shapes:
        posterior (2, N, D) -> scalar.
    """
    mean, log_variance = posterior
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
