"""Meta-Weight-Net (Shu et al. 2019, arXiv 1902.07379): a small network maps a sample's loss to its weight.

With gates it is FaMUS (Xu et al. 2021): the meta gradient flows through a few layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from datasets.checks import check_count
from methods.famus.meta_gradient import WeightedBatch
from methods.famus.meta_learning import CleanImageMetaLearning
from methods.famus.sample_weights import mean_weights, normalized_weights


class WeightNet(nn.Module):
    """Network from the loss of a sample to its weight in (0, 1), with one hidden layer.

    Args:
        hidden_units: number of units of the hidden layer.
    """

    def __init__(self, hidden_units: int = 100) -> None:
        super().__init__()
        check_count("method.weight_net", hidden_units=hidden_units)
        self.layers = nn.Sequential(nn.Linear(1, hidden_units), nn.ReLU(), nn.Linear(hidden_units, 1), nn.Sigmoid())

    def forward(self, losses: Tensor) -> Tensor:
        """Return the weights: losses (n,), which are detached -> (n,)."""
        return self.layers(losses.detach()[:, None]).squeeze(1)


class MetaWeightNet(CleanImageMetaLearning):
    """Meta-Weight-Net; with `gates`, FaMUS.

    Metrics besides those of `MetaLearning`, over the steps of an epoch:
        train/meta_grad_norm: norm of the mean meta gradient of the weight net.
        train/meta_grad_std: its standard deviation, root mean square over the parameters.
        train/meta_grad_spread: norm of the standard deviation divided by the norm of the mean.

    Args:
        network: images (B, C, H, W) in [0, 1] -> logits (B, K).
        weight_net: network from losses (n,) to weights (n,).
        weight_net_optimizer: function of the weight net's parameters that returns their optimizer.
        normalize: divide the weights of a batch by their sum; else by the batch size.
        **options: as in `CleanImageMetaLearning`.
    """

    def __init__(
        self,
        network: nn.Module,
        weight_net: WeightNet,
        weight_net_optimizer: Callable[..., Optimizer],
        normalize: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(network, **options)
        self.weight_net, self.weight_net_optimizer = weight_net, weight_net_optimizer
        self.scale_weights = normalized_weights if normalize else mean_weights
        self.meta_gradients: list[Tensor] = []

    def configure_optimizers(self) -> Any:
        """Return the optimizers of the network, the gates and the weight net, and the network's scheduler."""
        optimizers, schedulers = super().configure_optimizers()
        optimizers.append(self.weight_net_optimizer(self.weight_net.parameters()))
        return optimizers, schedulers

    def sample_weights(self, batch: Any, losses: Tensor) -> Tensor:
        """Update the weight net by a virtual step, and return the weights that it gives then."""
        weights = self.scale_weights(self.weight_net(losses))
        weighted = WeightedBatch(batch.x, batch.y, losses, weights, self.loss)
        self.update_weight_net(self.network, self.gates, weighted, self.next_clean_batch)
        grads = [p.grad.flatten() for p in self.weight_net.parameters() if p.grad is not None]
        self.meta_gradients.append(torch.cat(grads))
        with torch.no_grad():
            return self.scale_weights(self.weight_net(losses))

    def on_train_epoch_end(self) -> None:
        """Log the statistics of the meta gradient."""
        gradients, self.meta_gradients = torch.stack(self.meta_gradients), []
        norm, std = gradients.mean(0).norm(), gradients.std(0, correction=0)
        self.log("train/meta_grad_norm", norm)
        self.log("train/meta_grad_std", std.square().mean().sqrt())
        self.log("train/meta_grad_spread", std.norm() / norm)
        super().on_train_epoch_end()
