"""Networks of the paper's code for molecules (ogbg-molhiv), and their training."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, embedding_bag, relu, softsign
from torchmetrics import MeanMetric
from torchmetrics.classification import BinaryAUROC

from datasets.checks import check_fraction, check_positive
from datasets.graphs.store import GraphBatch
from methods.graphnorm.norms import make_norm
from methods.graphnorm.segments import neighbour_sum, segment_sum
from methods.graphnorm.training import AdamModule


def stacked_embeddings(sizes: list[int], channels: int) -> nn.Parameter:
    """Return an embedding table for each feature, each Xavier uniform, one below the other: (sum(sizes), channels)."""
    return nn.Parameter(torch.cat([nn.init.xavier_uniform_(torch.empty(size, channels)) for size in sizes]))


class AtomEncoder(nn.Module):
    """Sum of an embedding of each atom feature.

    Args:
        sizes: number of categories of each feature.
        channels: width of the embeddings.
    """

    first: Tensor

    def __init__(self, sizes: list[int], channels: int) -> None:
        super().__init__()
        self.tables = stacked_embeddings(sizes, channels)
        first = torch.tensor([0, *sizes[:-1]]).cumsum(0)
        self.register_buffer("first", first, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map categories (N, len(sizes)) to embeddings (N, channels)."""
        return embedding_bag(x + self.first, self.tables, mode="sum")


class MessageLayer(nn.Module):
    """Message passing layer: update(h_v + sum or mean of the messages h_u + e_uv of the neighbours u).

    e_uv is the sum of an embedding of each bond feature. There is no ReLU on a message. Since messages are only added
    up, the part of the bonds at a node follows from the number of times that each category occurs there.

    Args:
        bond_sizes: number of categories of each bond feature.
        channels: width of the node features.
        mean: take the mean of the messages instead of their sum.
        update: module that maps node features (N, channels) and a GraphBatch to (N, channels).
    """

    def __init__(self, bond_sizes: list[int], channels: int, mean: bool, update: nn.Module) -> None:
        super().__init__()
        self.bond_tables = stacked_embeddings(bond_sizes, channels)
        self.mean, self.update = mean, update

    def forward(self, h: Tensor, graphs: GraphBatch) -> Tensor:
        """Map node features (N, channels) to (N, channels)."""
        assert graphs.bonds is not None, "molecules have bonds"
        messages = neighbour_sum(graphs.adj, h) + graphs.bonds.to(self.bond_tables.dtype) @ self.bond_tables
        if self.mean:
            messages = messages / graphs.degree.clamp(min=1).unsqueeze(1)
        return self.update(h + messages, graphs)


class GINUpdate(nn.Module):
    """Update of a GIN layer: Linear to twice the width, Norm, ReLU, Linear back, Norm.

    Args:
        channels: width of the node features.
        norm: name of the norm in `norms.NORMS`.
        norm_kwargs: arguments of the norm.
    """

    def __init__(self, channels: int, norm: str, norm_kwargs: dict) -> None:
        super().__init__()
        self.lin1 = nn.Linear(channels, 2 * channels)
        self.norm1 = make_norm(norm, 2 * channels, **norm_kwargs)
        self.lin2 = nn.Linear(2 * channels, channels)
        self.norm2 = make_norm(norm, channels, **norm_kwargs)

    def forward(self, h: Tensor, graphs: GraphBatch) -> Tensor:
        """Map node features (N, channels) to (N, channels)."""
        h = relu(self.norm1(self.lin1(h), graphs), inplace=True)
        return self.norm2(self.lin2(h), graphs)


class GCNUpdate(nn.Module):
    """Update of a GCN layer: Linear, Norm.

    Args:
        channels: width of the node features.
        norm: name of the norm in `norms.NORMS`.
        norm_kwargs: arguments of the norm.
    """

    def __init__(self, channels: int, norm: str, norm_kwargs: dict) -> None:
        super().__init__()
        self.lin = nn.Linear(channels, channels)
        self.norm = make_norm(norm, channels, **norm_kwargs)

    def forward(self, h: Tensor, graphs: GraphBatch) -> Tensor:
        """Map node features (N, channels) to (N, channels)."""
        return self.norm(self.lin(h), graphs)


class MoleculeNetwork(nn.Module):
    """Base class of networks: atom embeddings, message passing layers, mean of the atoms, a linear classifier.

    Each layer has a residual; between layers there is a ReLU.

    Args:
        atom_sizes: number of categories of each atom feature.
        bond_sizes: number of categories of each bond feature.
        hidden: width of every layer.
        layers: number of message passing layers. The code's n_layers = 5 counts the input as one, so it is 4 here.
        norm: name of the norm in `norms.NORMS`. The norm that the paper's code for these networks calls "gn" has no
            learnable share of the mean: it is `instance` here. `graph` is GraphNorm as the paper defines it, and as its
            code has it for the TU collections.
        norm_kwargs: arguments of the norm.
        dropout: dropout probability on the logit, as in the paper's code.

    Raises:
        ValueError: an argument is out of range.
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
        check_positive("model", layers=layers, hidden=hidden)
        check_fraction("model", dropout=dropout)
        self.atoms = AtomEncoder(atom_sizes, hidden)
        self.layers = nn.ModuleList(
            self.make_layer(bond_sizes, hidden, norm, dict(norm_kwargs or {})) for _ in range(layers)
        )
        self.classifier = nn.Linear(hidden, 1)
        self.dropout = nn.Dropout(dropout)

    def make_layer(self, bond_sizes: list[int], hidden: int, norm: str, norm_kwargs: dict) -> MessageLayer:
        """Return a message passing layer (N, hidden) -> (N, hidden). A subclass implements this."""
        raise NotImplementedError(f"{type(self).__name__}.make_layer is missing")

    def forward(self, graphs: GraphBatch) -> Tensor:
        """Return the logits (B,) of a batch with integer x and with bonds."""
        h = self.atoms(graphs.x)
        for layer in self.layers[:-1]:
            h = relu(layer(h, graphs)) + h
        h = self.layers[-1](h, graphs) + h
        mean = segment_sum(graphs.pool, graphs.batch, h) / graphs.sizes.clamp(min=1).unsqueeze(1)
        return self.dropout(self.classifier(mean)).squeeze(1)


class MoleculeGIN(MoleculeNetwork):
    """`MoleculeNetwork` that sums messages and updates by an MLP, with eps = 0 (Xu et al. 2019)."""

    def make_layer(self, bond_sizes: list[int], hidden: int, norm: str, norm_kwargs: dict) -> MessageLayer:
        """Return a layer that sums messages."""
        return MessageLayer(bond_sizes, hidden, mean=False, update=GINUpdate(hidden, norm, norm_kwargs))


class MoleculeGCN(MoleculeNetwork):
    """`MoleculeNetwork` that averages messages and updates by one Linear, as in the paper's code for molecules.

    It is not the GCN of Kipf and Welling: a node's own features are added to the mean, with weight 1.
    """

    def make_layer(self, bond_sizes: list[int], hidden: int, norm: str, norm_kwargs: dict) -> MessageLayer:
        """Return a layer that averages messages."""
        return MessageLayer(bond_sizes, hidden, mean=True, update=GCNUpdate(hidden, norm, norm_kwargs))


class MoleculeClassifier(AdamModule):
    """Adam on the binary cross-entropy, its learning rate falling linearly over the epochs, to 0 after the last.

    Metrics:
        train/loss: mean cross-entropy (nats) of the training batches, with dropout.
        val/loss, test/loss: mean cross-entropy (nats).
        val/auc, test/auc: area under the ROC curve (0..1) over all molecules of the part; ties count half.

    Args:
        network: network whose forward pass maps a GraphBatch to logits (B,).
        lr: learning rate of Adam.
        weight_decay: weight decay of Adam.
        monitor: metric that picks the checkpoint to test (`val/auc` in the paper's code), or None for the last one.

    Raises:
        ValueError: `lr` or `weight_decay` is out of range.
    """

    tasks = ("molecule-property",)

    def __init__(
        self, network: nn.Module, lr: float = 1e-4, weight_decay: float = 0.0, monitor: str | None = "val/auc"
    ) -> None:
        super().__init__(network, lr, weight_decay, None, monitor)
        self.train_loss, self.val_loss, self.test_loss = MeanMetric(), MeanMetric(), MeanMetric()
        self.val_auc, self.test_auc = BinaryAUROC(), BinaryAUROC()

    def training_step(self, graphs: GraphBatch, batch_idx: int) -> Tensor:
        """Return the mean loss over the global batch."""
        loss, _ = self._loss(graphs)
        self.train_loss.update(loss.detach(), graphs.num_graphs)
        # the mean over the global batch: averaged over the processes, gradients are those of one process
        return loss * (graphs.num_graphs * self.trainer.world_size / graphs.total)

    def on_train_epoch_end(self) -> None:
        """Log the loss of the training batches."""
        self.log("train/loss", self.train_loss)

    def validation_step(self, graphs: GraphBatch, batch_idx: int) -> None:
        """Evaluate a batch of the validation part."""
        self._evaluate(graphs, self.val_loss, self.val_auc)

    def test_step(self, graphs: GraphBatch, batch_idx: int) -> None:
        """Evaluate a batch of the test part."""
        self._evaluate(graphs, self.test_loss, self.test_auc)

    def on_validation_epoch_end(self) -> None:
        """Log loss and area under the curve of the validation part."""
        self.log_dict({"val/loss": self.val_loss, "val/auc": self.val_auc})

    def on_test_epoch_end(self) -> None:
        """Log loss and area under the curve of the test part."""
        self.log_dict({"test/loss": self.test_loss, "test/auc": self.test_auc})

    def _loss(self, graphs: GraphBatch) -> tuple[Tensor, Tensor]:
        logits = self(graphs).float()
        return binary_cross_entropy_with_logits(logits, graphs.y.float()), logits

    def _evaluate(self, graphs: GraphBatch, mean_loss: MeanMetric, auc: BinaryAUROC) -> None:
        loss, logits = self._loss(graphs)
        mean_loss.update(loss, graphs.num_graphs)
        # torchmetrics needs probabilities: it leaves logits unchanged in batches where all lie in 0..1. Any increasing
        # function will do, and softsign, unlike the sigmoid, keeps large logits apart.
        auc.update(softsign(logits.double()) / 2 + 0.5, graphs.y)
