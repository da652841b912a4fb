"""A small set of shapes on disk, made of meshes of two categories."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import trimesh

from datasets.shapes.build import Recipe, build_dataset
from datasets.shapes.meshes import folder_sources

POINTS = 401  # no whole number of bytes


def small_meshes(root: Path) -> Path:
    """root/ball/b0.off .. b4.off, root/ring/r0.obj .. r4.obj, of different sizes and places."""
    for folder in ("ball", "ring"):
        (root / folder).mkdir(parents=True)
    for i in range(5):
        ball = trimesh.creation.icosphere(2, 1 + i).apply_scale((1, 1, 0.5 + 0.1 * i)).apply_translation((i, 2, 3))
        ball.export(root / "ball" / f"b{i}.off")
        ring = trimesh.creation.torus(1.0, 0.3 + 0.1 * i, major_sections=20, minor_sections=12)
        ring.export(root / "ring" / f"r{i}.obj")
    return root


def three_one_one(sources):
    return {"train": sources[:3], "val": sources[3:4], "test": sources[4:]}


@pytest.fixture(scope="session")
def meshes(tmp_path_factory) -> Path:
    return small_meshes(tmp_path_factory.mktemp("meshes"))


@pytest.fixture(scope="session")
def built(meshes, tmp_path_factory) -> Path:
    """The set: 401 points, points near the surface, 3 views; not to be changed."""
    root = tmp_path_factory.mktemp("built") / "set"
    build_dataset(folder_sources(meshes), root, Recipe(POINTS, near=True, views=3), three_one_one)
    return root


@pytest.fixture
def copy(built, tmp_path) -> Path:
    """The set, to be damaged."""
    return Path(shutil.copytree(built, tmp_path / "set"))
