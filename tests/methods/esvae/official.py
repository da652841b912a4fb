"""The arithmetic of the official code, written as published: time last, autograd through in-place writes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class SpikeAct(torch.autograd.Function):
    """Spike with a rectangular surrogate gradient around a centre."""

    @staticmethod
    def forward(ctx, u, center):
        ctx.save_for_backward(u)
        ctx.center = center
        return (u > 0.2).to(u.dtype)

    @staticmethod
    def backward(ctx, grad):
        (u,) = ctx.saved_tensors
        return grad * ((u - ctx.center).abs() < 0.5), None


def lif_loop(x: Tensor, center: float = 0.0) -> Tensor:
    """x (..., T) -> spikes (..., T)."""
    u = torch.zeros_like(x[..., 0])
    out = torch.zeros_like(x)
    for step in range(x.shape[-1]):
        u = 0.25 * u * (1 - out[..., max(step - 1, 0)]) + x[..., step]
        out[..., step] = SpikeAct.apply(u, center)
    return out


class TdBatchNorm(nn.BatchNorm2d):
    """Over (N, C, H, W, T)."""

    def __init__(self, channels, alpha=1.0):
        super().__init__(channels)
        self.alpha = alpha

    def forward(self, x):
        if self.training:
            mean, var = x.mean([0, 2, 3, 4]), x.var([0, 2, 3, 4], unbiased=False)
            n = x.numel() / x.size(1)
            with torch.no_grad():
                self.running_mean = 0.1 * mean + 0.9 * self.running_mean
                self.running_var = 0.1 * var * n / (n - 1) + 0.9 * self.running_var
        else:
            mean, var = self.running_mean, self.running_var
        shape = (1, -1, 1, 1, 1)
        x = self.alpha * 0.2 * (x - mean.view(shape)) / torch.sqrt(var.view(shape) + self.eps)
        return x * self.weight.view(shape) + self.bias.view(shape)


def linear(layer, norm, x):
    """Linear layer, norm and neurons on (N, C, T)."""
    y = functional.linear(x.transpose(1, 2), layer.weight, layer.bias).transpose(1, 2)
    return lif_loop(norm(y[:, :, None, None, :])[:, :, 0, 0, :])


def conv(layer, norm, x):
    """3x3 convolution in space, 1 in time, norm and neurons on (N, C, H, W, T)."""
    y = functional.conv3d(x, layer.weight[..., None], layer.bias, stride=(2, 2, 1), padding=(1, 1, 0))
    return lif_loop(norm(y))


def deconv(layer, norm, x):
    """Transposed convolution in space, norm and neurons on (N, C, H, W, T)."""
    y = functional.conv_transpose3d(x, layer.weight[..., None], layer.bias, (2, 2, 1), (1, 1, 0), (1, 1, 0))
    return lif_loop(norm(y))


def readout(layer, x, decay=0.8):
    """Last transposed convolution of every step, membrane output, tanh."""
    y = functional.conv_transpose3d(x, layer.weight[..., None], layer.bias, 1, (1, 1, 0))
    weights = decay ** torch.arange(x.shape[-1] - 1, -1, -1)
    return torch.tanh((y * weights).sum(-1))


def mmd(source: Tensor, target: Tensor) -> Tensor:
    """Sum of five Gaussian kernels, all pairwise differences at once."""
    total = torch.cat([source, target])
    distance = ((total[None] - total[:, None]) ** 2).sum(2)
    n, size = len(source), len(total)
    bandwidth = distance.detach().sum() / (size**2 - size) / 2.0 ** (5 // 2)
    kernel = sum(torch.exp(-distance / (bandwidth * 2.0**i)) for i in range(5))
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - kernel[:n, n:].mean() - kernel[n:, :n].mean()


class Published(nn.Module):
    """ESVAE as published, with the parameters of one of ours: `forward` gives the encoder's spikes, z, image, rates."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.norms = {}
        for block in network.modules():
            if hasattr(block, "norm"):
                norm = TdBatchNorm(len(block.norm.weight), block.norm.scale / 0.2).train(network.training)
                norm.load_state_dict(block.norm.state_dict(), strict=False)
                norm.weight, norm.bias = block.norm.weight, block.norm.bias
                self.norms[block] = norm

    def forward(self, x, noise, uniform):
        """x (N, C, H, W), noise (N, D), uniform (N, D, T)."""
        network, steps = self.network, uniform.shape[-1]
        h = x[..., None].repeat(1, 1, 1, 1, steps)
        for block in network.encoder.convs:
            h = conv(block.layer, self.norms[block], h)
        e = linear(network.encoder.latent.layer, self.norms[network.encoder.latent], h.flatten(1, 3))
        r, prior = e.mean(-1), network.prior(noise).sigmoid()
        z = SampledSpikeAct.apply(r[..., None].repeat(1, 1, steps), uniform)
        h = linear(network.decoder.input.layer, self.norms[network.decoder.input], z)
        h = h.view(len(x), *network.decoder.inner, steps)
        for block in network.decoder.deconvs:
            h = deconv(block.layer, self.norms[block], h)
        return e, z, readout(network.decoder.readout.layer, h), r, prior


class SampledSpikeAct(torch.autograd.Function):
    """Spikes of rates and uniform noise, with the rectangular surrogate."""

    @staticmethod
    def forward(ctx, rates, uniform):
        ctx.save_for_backward(rates, uniform)
        return (rates > uniform).float()

    @staticmethod
    def backward(ctx, grad):
        rates, uniform = ctx.saved_tensors
        return grad * ((rates - uniform).abs() < 0.5), None
