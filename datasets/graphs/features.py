"""Node features of a graph collection: labels, attributes, degrees or a constant, chosen by the config."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

log = logging.getLogger(__name__)

NODE_FEATURES = ("auto", "labels", "attributes", "both", "degree", "constant")
NEEDS = {"labels": "labels", "attributes": "attributes", "both": "labels and attributes"}


@dataclass
class NodeData:
    """Labels and attributes of the nodes, as a collection's files give them.

    Shapes:
        degree: (N,) int64; a self loop counts once, as in the papers' code.
        labels: (N, L) int64, or None.
        attributes: (N, A) float32, or None.
    """

    degree: Tensor
    labels: Tensor | None = None
    attributes: Tensor | None = None

    def resolve(self, choice: str, name: str) -> str:
        """Return the choice, with "auto" replaced by labels, else attributes, else degree, whichever exist first.

        Raises:
            ValueError: the collection lacks what is chosen.
        """
        if choice == "auto":
            return "labels" if self.labels is not None else "attributes" if self.attributes is not None else "degree"
        available = {"labels": self.labels is not None, "attributes": self.attributes is not None}
        available["both"] = all(available.values())
        if not available.get(choice, True):
            usable = [kind for kind in NODE_FEATURES if available.get(kind, True)]
            raise ValueError(
                f"dataset.node_features={choice}: {name} does not have node {NEEDS[choice]}; "
                f"choose from {', '.join(usable)}"
            )
        return choice


@dataclass(frozen=True)
class Encoding:
    """Encoding of node features, by which other files of the same kind are encoded alike.

    Args:
        choice: one of `NODE_FEATURES`, but not `auto`.
        values: values of each one-hot column group, in the order of their columns.
    """

    choice: str
    values: tuple[Tensor, ...] = ()


def dense_categories(values: Tensor, known: Tensor | None = None) -> tuple[Tensor, int]:
    """Return values numbered from 0 without gaps, since values that do not occur would be dead columns.

    Args:
        values: (N,) int64.
        known: (K,) int64, ascending: the values that are numbered; None: those that occur.

    Returns:
        (N,) int64 in 0..K-1, and K.

    Raises:
        ValueError: a value is not among the known ones.
    """
    if known is None:
        known = torch.unique(values)
    dense = torch.searchsorted(known, values).clamp(max=known.numel() - 1)
    if (strange := values[known[dense] != values]).numel():
        raise ValueError(
            f"a node has the label or degree {int(strange[0])}, which no node of the training collection has"
        )
    return dense, known.numel()


def encoding_of(nodes: NodeData, choice: str, name: str) -> Encoding:
    """Return the encoding that `node_features` uses for a collection, with the arguments of that function."""
    chosen = nodes.resolve(choice, name)
    columns = [nodes.degree] if chosen == "degree" else []
    if chosen in ("labels", "both") and nodes.labels is not None:
        columns = list(nodes.labels.unbind(1))
    return Encoding(chosen, tuple(torch.unique(column) for column in columns))


def node_features(
    nodes: NodeData, choice: str, name: str, unused: list[str], known: Encoding | None = None
) -> tuple[Tensor, int | None]:
    """Make the node features of a collection, and log what they are made of.

    Categories (labels in one column, degrees) are returned as numbers, which batches turn into one-hot rows. Several
    columns of labels are one-hot encoded one by one. With "both", attributes come before labels, as in
    torch-geometric.

    Args:
        nodes: labels, attributes and degrees.
        choice: one of `NODE_FEATURES`.
        name: name of the collection, for messages.
        unused: other data of the collection that nothing reads, for the log line.
        known: encoding of another collection, whose columns are used; `choice` must be its choice.

    Returns:
        x: (N,) int64 categories with their number, or (N, F) float32 with None.

    Raises:
        ValueError: the collection lacks what is chosen.
    """
    chosen = nodes.resolve(choice, name)
    x, categories, content = _make(nodes, known or encoding_of(nodes, chosen, name))
    unused = [*unused]
    if nodes.labels is not None and chosen not in ("labels", "both"):
        unused.append("node labels")
    if nodes.attributes is not None and chosen not in ("attributes", "both"):
        unused.append(f"node attributes ({nodes.attributes.shape[1]} columns; dataset.node_features=both reads them)")
    ending = f"; not used: {', '.join(unused)}" if unused else ""
    log.info("%s: node features are %s%s", name, content, ending)
    return x, categories


def _make(nodes: NodeData, encoding: Encoding) -> tuple[Tensor, int | None, str]:
    """Return x, its number of categories and its description."""
    chosen, values = encoding.choice, encoding.values
    if chosen == "constant":
        return torch.ones(len(nodes.degree), 1), None, "a constant 1"
    if chosen == "degree":
        x, categories = dense_categories(nodes.degree, values[0])
        return x, categories, f"the degree, one-hot ({categories} values)"
    if chosen == "attributes":
        assert nodes.attributes is not None, "resolved before"
        return nodes.attributes, None, f"node attributes ({nodes.attributes.shape[1]} columns)"
    assert nodes.labels is not None, "resolved before"
    if chosen == "labels" and nodes.labels.shape[1] == 1:
        x, categories = dense_categories(nodes.labels[:, 0], values[0])
        return x, categories, f"node labels, one-hot ({categories} values)"
    if nodes.labels.shape[1] != len(values):
        raise ValueError(f"a node has {nodes.labels.shape[1]} labels, and {len(values)} in the training collection")
    columns = [dense_categories(column, v) for column, v in zip(nodes.labels.unbind(1), values, strict=True)]
    rows = torch.cat([one_hot(dense, count) for dense, count in columns], dim=1).float()
    content = f"node labels in {nodes.labels.shape[1]} columns, one-hot ({rows.shape[1]} values)"
    if chosen == "labels":
        return rows, None, content
    assert nodes.attributes is not None, "resolved before"
    x = torch.cat([nodes.attributes, rows], dim=1)
    return x, None, f"node attributes ({nodes.attributes.shape[1]} columns) and {content}"
