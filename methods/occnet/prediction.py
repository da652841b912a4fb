"""Meshes of shapes of one's own, from point clouds or pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from datasets.images.decode import read_image
from datasets.prediction import files_below, unique_names
from datasets.progress import track
from datasets.shapes.inputs import CLOUDS, PICTURES, Frame, cloud_input, picture_input, read_cloud, unknown_shape
from methods.occnet.evaluation import Reconstruction
from methods.occnet.export import FORMATS, write_mesh, write_points

READABLE = {"pointcloud": (CLOUDS, "point clouds"), "image": (PICTURES, "pictures")}
DRAWN = 100_000  # points that are drawn from a mesh, from which the input is drawn


def reconstruct_files(
    reconstruct: Callable[[Any], Reconstruction], paths: list[Path], out: Path, data: Any, suffix: str
) -> list[Path]:
    """Write the reconstruction of each file as `<name>.<suffix>`; one without a mesh as points, in PLY.

    A point cloud is scaled so that the longest edge of the box around it is that of the unit cube, as in training;
    its reconstruction has the place and scale of the file. That of a picture lies in the unit cube.

    Args:
        reconstruct: method of a `ShapeReconstruction`.
        paths: files, or folders of them.
        out: folder of the reconstructions.
        data: DataModule that the network was trained on.
        suffix: one of FORMATS.

    Raises:
        ValueError: the data set's inputs are neither point clouds nor pictures, or a file does not fit.
    """
    if suffix not in FORMATS:
        raise ValueError(f"suffix must be one of {', '.join(FORMATS)}, got {suffix}")
    if data.inputs not in READABLE:
        raise ValueError(f"only point clouds and pictures can be read, and dataset.inputs is {data.inputs}")
    files = files_below(paths, *READABLE[data.inputs])
    names = unique_names(files)
    written = []
    for path in track(files, "reconstructing"):
        frame, shape = None, None
        if data.inputs == "pointcloud":
            points = read_cloud(path, DRAWN)
            frame = Frame(points)
            shape = unknown_shape(cloud_input(frame.to_unit(points), data.input_points))
        else:
            shape = unknown_shape(picture_input(read_image(path, 3, None), data.image_size))
        written.append(write(reconstruct(shape), frame, out / names[path], suffix))
    return written


def write(prediction: Reconstruction, frame: Frame | None, place: Path, suffix: str) -> Path:
    """Write a reconstruction, moved to the frame of its file. `place` has no suffix. Returns the file."""
    if prediction.mesh is None:
        assert prediction.points is not None, "a reconstruction is a mesh or points"
        path = place.with_name(f"{place.name}.ply")
        write_points(path, frame.from_unit(prediction.points) if frame else prediction.points)
        return path
    mesh = prediction.mesh
    if frame:
        mesh = mesh._replace(vertices=frame.from_unit(mesh.vertices).astype(np.float32))
    path = place.with_name(f"{place.name}.{suffix}")
    write_mesh(path, mesh)
    return path
