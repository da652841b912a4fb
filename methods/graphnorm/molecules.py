"""ogbg-molhiv: the networks of the paper's code for molecules, and their training."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, embedding_bag, relu, softsign
from torchmetrics import MeanMetric
from torchmetrics.classification import BinaryAUROC

from methods.graphnorm.figures import learned_alpha
from methods.graphnorm.module import linear_decay
from methods.graphnorm.norms import make_norm
from methods.graphnorm.segments import neighbour_sum, segment_sum


def stacked_embeddings(sizes: list[int], channels: int) -> nn.Parameter:
    """One embedding table a feature, each Xavier uniform, one below the other: (sum(sizes), channels)."""
    return nn.Parameter(torch.cat([nn.init.xavier_uniform_(torch.empty(size, channels)) for size in sizes]))


class AtomEncoder(nn.Module):
    """Sum of an embedding of each feature: (N, len(sizes)) categories -> (N, channels)."""

    def __init__(self, sizes: list[int], channels: int) -> None:
        super().__init__()
        self.tables = stacked_embeddings(sizes, channels)
        first = torch.tensor([0, *sizes[:-1]]).cumsum(0)
        self.register_buffer("first", first, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return embedding_bag(x + self.first, self.tables, mode="sum")


class MessageLayer(nn.Module):
    """update(h_v + the messages h_u + e_uv of the neighbours u), e_uv the sum of an embedding of each bond feature.

    There is no ReLU on a message. Since messages are only added up, the bonds' part at a node follows from how often
    each category occurs there.

    Args:
        bond_sizes: categories of each bond feature. mean: the mean of the messages instead of their sum.
        update: ((N, channels), GraphBatch) -> (N, channels).
    """

    def __init__(self, bond_sizes: list[int], channels: int, mean: bool, update: nn.Module) -> None:
        super().__init__()
        self.bond_tables = stacked_embeddings(bond_sizes, channels)
        self.mean, self.update = mean, update

    def forward(self, h: Tensor, graphs) -> Tensor:
        messages = neighbour_sum(graphs.adj, h) + graphs.bonds.to(self.bond_tables.dtype) @ self.bond_tables
        if self.mean:
            messages = messages / graphs.degree.clamp(min=1).unsqueeze(1)
        return self.update(h + messages, graphs)


class GINUpdate(nn.Module):
    """Linear to twice the width, Norm, ReLU, Linear back, Norm."""

    def __init__(self, channels: int, norm: str, norm_kwargs: dict) -> None:
        super().__init__()
        self.lin1 = nn.Linear(channels, 2 * channels)
        self.norm1 = make_norm(norm, 2 * channels, **norm_kwargs)
        self.lin2 = nn.Linear(2 * channels, channels)
        self.norm2 = make_norm(norm, channels, **norm_kwargs)

    def forward(self, h: Tensor, graphs) -> Tensor:
        h = relu(self.norm1(self.lin1(h), graphs), inplace=True)
        return self.norm2(self.lin2(h), graphs)


class GCNUpdate(nn.Module):
    """Linear, Norm."""

    def __init__(self, channels: int, norm: str, norm_kwargs: dict) -> None:
        super().__init__()
        self.lin = nn.Linear(channels, channels)
        self.norm = make_norm(norm, channels, **norm_kwargs)

    def forward(self, h: Tensor, graphs) -> Tensor:
        return self.norm(self.lin(h), graphs)


class MoleculeNetwork(nn.Module):
    """Atom embeddings, message passing layers with a residual each and ReLU between them, mean of the atoms, Linear.

    Args:
        atom_sizes, bond_sizes: categories of each feature. hidden: width of every layer.
        layers: message passing layers (the code's n_layers = 5 counts the input as one, so 4 here).
        norm, norm_kwargs: by the names of `methods.graphnorm.norms`. What the paper's code calls "gn" for these
            networks has no learnable share of the mean: it is `instance` here. `graph` is GraphNorm as the paper
            defines it, and as its code has it for the TU collections.
        dropout: on the logit, as in the paper's code.

    Forward: GraphBatch with integer x and bonds -> logits (B,).
    """

    tasks = ("molecule-property",)

    def __init__(
        self,
        atom_sizes: list[int],
        bond_sizes: list[int],
        hidden: int = 300,
        layers: int = 4,
        norm: str = "graph",
        norm_kwargs: dict | None = None,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if layers < 1 or hidden < 1:
            raise ValueError(f"model.layers and model.hidden must be positive, got {layers} and {hidden}")
        self.atoms = AtomEncoder(atom_sizes, hidden)
        self.layers = nn.ModuleList(
            self.make_layer(bond_sizes, hidden, norm, dict(norm_kwargs or {})) for _ in range(layers)
        )
        self.classifier = nn.Linear(hidden, 1)
        self.dropout = nn.Dropout(dropout)

    def make_layer(self, bond_sizes: list[int], hidden: int, norm: str, norm_kwargs: dict) -> MessageLayer:
        """One message passing layer (N, hidden) -> (N, hidden)."""
        raise TypeError(f"{type(self).__name__} does not say which layer it is made of")

    def forward(self, graphs) -> Tensor:
        h = self.atoms(graphs.x)
        for layer in self.layers[:-1]:
            h = relu(layer(h, graphs)) + h
        h = self.layers[-1](h, graphs) + h
        mean = segment_sum(graphs.pool, graphs.batch, h) / graphs.sizes.clamp(min=1).unsqueeze(1)
        return self.dropout(self.classifier(mean)).squeeze(1)


class MoleculeGIN(MoleculeNetwork):
    """`MoleculeNetwork` that sums messages and updates by an MLP, with eps = 0 (Xu et al. 2019)."""

    def make_layer(self, bond_sizes, hidden, norm, norm_kwargs):
        return MessageLayer(bond_sizes, hidden, mean=False, update=GINUpdate(hidden, norm, norm_kwargs))


class MoleculeGCN(MoleculeNetwork):
    """`MoleculeNetwork` that averages messages and updates by one Linear, as the paper's code has it for molecules.

    It is not the GCN of Kipf and Welling: a node's own features come on top of the mean, with weight 1.
    """

    def make_layer(self, bond_sizes, hidden, norm, norm_kwargs):
        return MessageLayer(bond_sizes, hidden, mean=True, update=GCNUpdate(hidden, norm, norm_kwargs))


class MoleculeClassifier(LightningModule):
    """Adam, its learning rate falling linearly over the epochs, to 0 after the last, on the binary cross-entropy.

    Metrics: `train/loss` (as trained, with dropout), `val/loss`, `test/loss`: mean cross-entropy (nats);
    `val/auc`, `test/auc`: area under the ROC curve (0..1) over all molecules of the part, ties counted half.

    Args:
        network: GraphBatch -> logits (B,). lr, weight_decay: of Adam.
        monitor: the metric that picks the checkpoint to test (`val/auc` in the paper's code), or None for the last one.
    """

    tasks = ("molecule-property",)
    monitor_mode = "max"

    def __init__(
        self, network: nn.Module, lr: float = 1e-4, weight_decay: float = 0.0, monitor: str | None = "val/auc"
    ) -> None:
        super().__init__()
        if lr <= 0:
            raise ValueError(f"method.lr must be positive, got {lr}")
        if weight_decay < 0:
            raise ValueError(f"method.weight_decay must not be negative, got {weight_decay}")
        self.network, self.lr, self.weight_decay, self.monitor = network, lr, weight_decay, monitor
        self.train_loss, self.val_loss, self.test_loss = MeanMetric(), MeanMetric(), MeanMetric()
        self.val_auc, self.test_auc = BinaryAUROC(), BinaryAUROC()

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.Adam(
            self.network.parameters(), lr=self.lr, weight_decay=self.weight_decay, foreach=True
        )
        return {"optimizer": optimizer, "lr_scheduler": linear_decay(max(self.trainer.max_epochs or 1, 1))(optimizer)}

    def forward(self, graphs) -> Tensor:
        return self.network(graphs)

    def training_step(self, graphs, batch_idx: int) -> Tensor:
        loss, _ = self._loss(graphs)
        self.train_loss.update(loss.detach(), graphs.num_graphs)
        # the mean over the global batch: averaged over the processes, gradients are those of one process
        return loss * (graphs.num_graphs * self.trainer.world_size / graphs.total)

    def on_train_epoch_end(self) -> None:
        self.log("train/loss", self.train_loss)

    def validation_step(self, graphs, batch_idx: int) -> None:
        self._evaluate(graphs, self.val_loss, self.val_auc)

    def test_step(self, graphs, batch_idx: int) -> None:
        self._evaluate(graphs, self.test_loss, self.test_auc)

    def on_validation_epoch_end(self) -> None:
        self.log_dict({"val/loss": self.val_loss, "val/auc": self.val_auc})

    def on_test_epoch_end(self) -> None:
        self.log_dict({"test/loss": self.test_loss, "test/auc": self.test_auc})

    def figures(self) -> dict[str, Any]:
        """The learned alphas, where the network has any."""
        return learned_alpha(self.network)

    def _loss(self, graphs) -> tuple[Tensor, Tensor]:
        logits = self(graphs).float()
        return binary_cross_entropy_with_logits(logits, graphs.y.float()), logits

    def _evaluate(self, graphs, mean_loss: MeanMetric, auc: BinaryAUROC) -> None:
        loss, logits = self._loss(graphs)
        mean_loss.update(loss, graphs.num_graphs)
        # torchmetrics wants probabilities: of logits it would take those batches as they are that lie within 0..1. Any
        # increasing map will do, and this one, unlike the sigmoid, keeps large logits apart.
        auc.update(softsign(logits.double()) / 2 + 0.5, graphs.y)
