"""Optimizers of the predictors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim import Adam, Optimizer, SparseAdam

from methods.optfeature.network import CTRNetwork


def network_optimizers(
    network: CTRNetwork,
    lr: float,
    weight_decay: float,
    embedding_weight_decay: float,
    more: Sequence[nn.Parameter] = (),
) -> list[Optimizer]:
    """Return Adam on a predictor, and a lazy Adam on its tables if their gradients are sparse.

    Args:
        network: predictor.
        lr: learning rate.
        weight_decay: coupled L2 of all parameters but tables.
        embedding_weight_decay: coupled L2 of the tables; the lazy Adam has none.
        more: parameters that are trained with the predictor.
    """
    tables = [module.weight for module in network.modules() if isinstance(module, nn.Embedding)]
    known = {id(table) for table in tables}
    rest = [parameter for parameter in network.parameters() if id(parameter) not in known]
    groups: list[dict[str, Any]] = [{"params": rest, "weight_decay": weight_decay}]
    if not network.sparse:
        groups.append({"params": tables, "weight_decay": embedding_weight_decay})
    groups.append({"params": list(more), "weight_decay": weight_decay})
    optimizers: list[Optimizer] = [Adam([group for group in groups if group["params"]], lr=lr, fused=True)]
    if network.sparse:
        optimizers.append(SparseAdam(tables, lr=lr))
    return optimizers
