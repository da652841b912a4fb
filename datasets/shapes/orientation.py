"""Closed parts of a mesh: which faces belong together, and on which side of them the solid is.

Meshes from modelling programs are often several closed parts in one file: a leg that reaches into a seat, a screw
inside a wall, a part whose normals point inwards. The solid is taken to be the union of the parts:

- The faces of a part are oriented consistently.
- A part that lies in empty space is solid: if its normals point inwards, it is turned, with all that lies in it.
- A part that lies inside a solid one is a cavity if its normals point inwards. If they point outwards it is one more
  solid part, and makes no difference.

After that, `inside_test.union_contains` tells the inside by the winding number.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from datasets.shapes.geometry import (
    BoolArray,
    FloatArray,
    IntArray,
    directed_edges,
    edge_keys,
    face_edges,
    signed_volumes,
)
from datasets.shapes.inside_test import winding_numbers

PROBES = 64  # faces of a part, at most, whose centers say whether it lies inside another one


class Orientation(NamedTuple):
    """Faces of a mesh with consistent orientation, and what was found.

    Args:
        faces: vertex indices (F, 3), turned where needed.
        parts: number of closed parts.
        turned: number of parts of which all or some normals pointed to the wrong side.
        cavities: number of parts that are cavities of others.
        enclosed: number of parts that lie inside solid ones and so make no difference.
    """

    faces: IntArray
    parts: int
    turned: int
    cavities: int
    enclosed: int


def orient_outward(vertices: FloatArray, faces: IntArray) -> Orientation:
    """Orient the closed parts of a watertight mesh so that all normals point out of their union.

    The order of the faces stays as it is. A mesh of one part that is consistently oriented keeps its faces, all of them
    turned if they point inwards.

    Args:
        vertices: positions (V, 3), merged (see `geometry.merge_vertices`).
        faces: vertex indices (F, 3) without repeated faces (see `drop_repeated_faces`).

    Raises:
        ValueError: if a part has no two sides, or an edge of more than two faces does not say which belong together.
    """
    patch, flipped = _orient_patches(faces)
    faces = np.where(flipped[:, None], faces[:, ::-1], faces)
    part = _closed_parts(faces, patch)
    count = int(part.max()) + 1
    volumes = np.bincount(part, weights=signed_volumes(vertices, faces), minlength=count)
    sign, parents = _nest(vertices, faces, part, volumes)
    wrong = sign * np.sign(volumes) < 0
    within = np.array([sum(sign[parent] for parent in own) for own in parents])
    uneven = np.bincount(part, weights=flipped, minlength=count) % np.bincount(part, minlength=count) > 0
    return Orientation(
        faces=np.where(wrong[part][:, None], faces[:, ::-1], faces),
        parts=count,
        turned=int((wrong | uneven).sum()),
        cavities=int((sign < 0).sum()),
        enclosed=int(((sign > 0) & (within > 0)).sum()),
    )


def drop_repeated_faces(faces: IntArray) -> IntArray:
    """Drop faces with the same three vertices as another one.

    A piece of the mesh in which every face is repeated is a surface with two sides, of which one is kept. Elsewhere two
    repeated faces are a wall between two parts that touch, and both go.

    Args:
        faces: vertex indices (F, 3).

    Returns:
        The faces that are left, in their order.
    """
    _, first, index, counts = np.unique(
        np.sort(faces, axis=1), axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    if (counts == 1).all():
        return faces
    piece = _connected(edge_keys(face_edges(faces)), len(faces))
    repeated = counts[index.ravel()] > 1
    doubled = np.bincount(piece, weights=~repeated) == 0  # pieces
    odd = counts % 2 == 1
    kept = first[odd | doubled[piece[first]]]
    return faces[np.sort(kept)]


def _connected(keys: IntArray, count: int) -> IntArray:
    """Label faces (count,) that are connected by edges with equal keys (3 count,)."""
    _, edge = np.unique(keys, return_inverse=True)
    face = np.repeat(np.arange(count), 3)
    size = count + int(edge.max()) + 1
    graph = coo_array((np.ones(len(face), np.int8), (face, count + edge)), shape=(size, size))
    return np.unique(connected_components(graph, directed=False)[1][:count], return_inverse=True)[1]


def _orient_patches(faces: IntArray) -> tuple[IntArray, BoolArray]:
    """Orient faces consistently across the edges that exactly two of them share.

    Faces so connected form a patch. Of the two orientations of a patch, the one that turns fewer faces is taken.

    Returns:
        Patch (F,) of each face, and whether the face is to be flipped (F,).
    """
    count = len(faces)
    directed = directed_edges(faces)
    order = np.argsort(edge_keys(np.sort(directed, axis=1)), kind="stable")
    _, start, sizes = np.unique(edge_keys(np.sort(directed, axis=1))[order], return_index=True, return_counts=True)
    first, second = order[start[sizes == 2]], order[start[sizes == 2] + 1]
    same = (directed[first] == directed[second]).all(
        1
    )  # neighbours that pass their edge in the same direction disagree
    f, g = first // 3, second // 3
    # Node 2 i stands for face i as it is, node 2 i + 1 for face i flipped; an edge joins what is consistent.
    rows = np.concatenate([2 * f, 2 * f + 1])
    columns = np.concatenate([2 * g + same, 2 * g + 1 - same])
    graph = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(2 * count, 2 * count))
    label = connected_components(graph, directed=False)[1].reshape(count, 2)
    if (label[:, 0] == label[:, 1]).any():
        raise ValueError("it has a part with only one side, whose faces cannot be oriented consistently")
    patch = np.unique(label.min(1), return_inverse=True)[1]
    flipped = label[:, 0] > label[:, 1]  # relative to one of the two orientations of the patch
    many = 2 * np.bincount(patch, weights=flipped) > np.bincount(patch)
    return patch, flipped ^ many[patch]


def _closed_parts(faces: IntArray, patch: IntArray) -> IntArray:
    """Join patches that are not closed on their own to closed parts.

    A patch is closed if as many of its faces pass each edge in one direction as in the other.

    Returns:
        Part (F,) of each face.

    Raises:
        ValueError: if a joined part is not closed: the orientations of its patches do not fit.
    """
    directed = directed_edges(faces)
    direction = np.where(directed[:, 0] < directed[:, 1], 1, -1)
    _, edge = np.unique(edge_keys(np.sort(directed, axis=1)), return_inverse=True)
    owner = np.repeat(patch, 3)

    def unbalanced(group: IntArray) -> tuple[IntArray, IntArray]:
        size = int(edge.max()) + 1
        keys, index = np.unique(group * size + edge, return_inverse=True)
        open_ = keys[np.bincount(index, weights=direction) != 0]
        return open_ // size, open_ % size

    group, shared = unbalanced(owner)
    if not len(group):
        return patch
    patches = int(patch.max()) + 1
    size = patches + int(edge.max()) + 1
    graph = coo_array((np.ones(len(group), np.int8), (group, patches + shared)), shape=(size, size))
    joined = connected_components(graph, directed=False)[1][:patches]
    part = np.unique(joined[patch], return_inverse=True)[1]
    if len(unbalanced(np.repeat(part, 3))[0]):
        raise ValueError("it has edges of more than two faces that do not say which of them bound a solid")
    return part


def _nest(
    vertices: FloatArray, faces: IntArray, part: IntArray, volumes: NDArray[Any]
) -> tuple[IntArray, list[list[int]]]:
    """Decide which parts are solid and which are cavities, from the outside in.

    Args:
        vertices: positions (V, 3).
        faces: vertex indices (F, 3), consistently oriented in each part.
        part: part (F,) of each face.
        volumes: signed volume (P,) of each part.

    Returns:
        Sign (P,), 1 for solid parts and -1 for cavities, and for each part the parts that it lies in, the innermost
        last.
    """
    count = len(volumes)
    sign = np.ones(count, np.int64)
    parents: list[list[int]] = [[] for _ in range(count)]
    if count == 1:
        return sign, parents
    order = np.argsort(part, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(part, minlength=count))[:-1])
    low = np.stack([vertices[faces[own]].min((0, 1)) for own in members])
    high = np.stack([vertices[faces[own]].max((0, 1)) for own in members])
    turned = np.zeros(count, bool)
    outside_in = np.argsort(-np.abs(volumes), kind="stable")
    for place, k in enumerate(outside_in):
        probes = vertices[faces[members[k][:: -(-len(members[k]) // PROBES)]]].mean(1)
        larger = outside_in[:place]
        around_box = (low[larger] <= low[k]).all(1) & (high[larger] >= high[k]).all(1)
        for j in larger[around_box]:
            if (winding_numbers(vertices, faces[members[j]], probes)[0] != 0).all():
                parents[k].append(int(j))
        turned[k] = bool(parents[k]) and turned[parents[k][-1]]
        inward = (volumes[k] < 0) != turned[k]
        if inward and sum(sign[j] for j in parents[k]) > 0:
            sign[k] = -1
        elif inward:
            turned[k] = not turned[k]
    return sign, parents
