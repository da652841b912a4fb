"""Optimizers of the predictors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim import Adam, Optimizer, SparseAdam

from methods.optfeature.network import CTRNetwork


def check_sparse(gradient_clip: float | None, embedding_weight_decay: float | None) -> None:
    """Raise ValueError for an option that tables with sparse gradients do not allow.

    Args:
        gradient_clip: largest norm of the gradient; None: any.
        embedding_weight_decay: coupled L2 of the tables; None: not asked for.
    """
    if gradient_clip is not None:
        raise ValueError("model.sparse=true has no norm over all gradients: set method.gradient_clip=null")
    if embedding_weight_decay:
        raise ValueError("model.sparse=true trains tables without decay: set method.embedding_weight_decay=null")


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
    groups = [group for group in groups if group["params"]]
    optimizers: list[Optimizer] = [Adam(groups, lr=lr, fused=True)] if groups else []
    if network.sparse:
        optimizers.append(SparseAdam(tables, lr=lr))
    return optimizers
