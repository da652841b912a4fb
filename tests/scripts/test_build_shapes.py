"""The command that builds a set of shapes out of meshes."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh

from datasets.shapes.datamodules import StoredShapes
from scripts.build_shapes import main, override_value, split_by_share


@pytest.fixture
def meshes(tmp_path):
    for folder in ("block", "ball"):
        (tmp_path / "meshes" / folder).mkdir(parents=True)
        for i in range(4):
            mesh = trimesh.creation.box((1, 2, 1 + i)) if folder == "block" else trimesh.creation.icosphere(1, 1 + i)
            mesh.export(tmp_path / "meshes" / folder / f"{i}.off")
    return tmp_path / "meshes"


@pytest.mark.slow
def test_a_set_of_several_processes_is_the_set_of_one_and_can_be_loaded(program, meshes, tmp_path):
    options = ("--points", "300", "--near", "--views", "2", "--val", "0.25", "--test", "0.25")
    for processes in "12":
        command = (sys.executable, "-m", "scripts.build_shapes", str(meshes), str(tmp_path / processes), *options)
        done = program(*command, "--processes", processes)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"8 shapes in {tmp_path / processes}\n")
        assert f"dataset=shape_folder dataset.folder={tmp_path / processes}\n" in done.stdout
    files = [path.relative_to(tmp_path / "1") for path in (tmp_path / "1").rglob("*") if path.is_file()]
    assert len(files) == 8 * (4 + 3) + 2 * 3 + 2
    for path in files:
        assert (tmp_path / "1" / path).read_bytes() == (tmp_path / "2" / path).read_bytes(), path
    data = StoredShapes(folder=str(tmp_path / "2"), inputs="image", sampling="surface")
    data.setup()
    assert data.names("train") == ["ball/0", "ball/1", "block/0", "block/1"]
    assert data.category_of("test") == ["ball", "block"]


def test_meshes_that_do_not_do_end_in_one_message(meshes, tmp_path, capsys):
    (meshes / "ball" / "2.off").write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
    with pytest.raises(SystemExit) as ended:
        main([str(meshes), str(tmp_path / "set"), "--points", "20", "--processes", "1"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "1 of 8 meshes cannot become shapes" in said
    assert f"{meshes}/ball/2.off: it is not watertight: 3 edges" in said
    (meshes / "ball" / "2.off").unlink()
    main([str(meshes), str(tmp_path / "set"), "--points", "20", "--processes", "1"])
    assert capsys.readouterr().out.startswith(f"7 shapes in {tmp_path / 'set'}\n")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--points", "0"], "argument --points: must be at least 1, got 0"),
        (["--views", "-1"], "argument --views: must be at least 0, got -1"),
        (["--val", "0.5", "--test", "0.5"], "must leave some for training"),
    ],
)
def test_bad_options(meshes, tmp_path, capsys, options, said):
    with pytest.raises(SystemExit) as ended:
        main([str(meshes), str(tmp_path / "set"), *options])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_no_meshes_at_all(tmp_path, capsys):
    for place in (tmp_path, tmp_path / "none", tmp_path / "none.npz"):
        with pytest.raises(SystemExit) as ended:
            main([str(place), str(tmp_path / "set")])
        assert ended.value.code == 2
        assert str(place) in capsys.readouterr().err


def test_an_archive_is_taken_for_the_benchmark(tmp_path, capsys):
    box = trimesh.creation.box()
    np.savez(tmp_path / "m.npz", v101=box.vertices, f101=box.faces, v120=box.vertices, f120=box.faces)
    main([str(tmp_path / "m.npz"), str(tmp_path / "set"), "--points", "20", "--processes", "1"])
    assert (tmp_path / "set" / "chair" / "train.lst").read_text() == "101"
    assert (tmp_path / "set" / "chair" / "test.lst").read_text() == "120"


def test_shares():
    parts = split_by_share(list(range(10)), 0.1, 0.2)
    assert parts == {"train": list(range(7)), "val": [7], "test": [8, 9]}
    assert split_by_share([1], 0.1, 0.2) == {"train": [1], "val": [], "test": []}


@pytest.mark.parametrize(("count", "sizes"), [(2, [2, 0, 0]), (3, [1, 1, 1]), (5, [3, 1, 1]), (20, [14, 2, 4])])
def test_few_meshes_are_in_every_part(count, sizes):
    parts = split_by_share(list(range(count)), val=0.1, test=0.2)
    assert [len(members) for members in parts.values()] == sizes
    assert [x for members in parts.values() for x in members] == list(range(count))


def test_a_share_of_nothing_is_empty():
    assert split_by_share(list(range(5)), val=0.0, test=0.2)["val"] == []


def test_hidden_files_and_folders_are_no_meshes(meshes, tmp_path, capsys):
    """What macOS, version control and a file manager leave beside meshes."""
    (meshes / "ball" / "._0.off").write_bytes(b"\x00\x05\x16\x07")
    (meshes / "ball" / ".DS_Store").write_bytes(b"")
    for folder in (".trash", "__MACOSX", "ball/.ipynb_checkpoints", "__MACOSX/ball"):
        (meshes / folder).mkdir(exist_ok=True)
        (meshes / folder / "9.off").write_text("no mesh")
    main([str(meshes), str(tmp_path / "set"), "--points", "20", "--processes", "1"])
    assert capsys.readouterr().out.startswith("8 shapes in ")
    assert sorted(path.name for path in (tmp_path / "set").iterdir() if path.is_dir()) == ["ball", "block"]


def test_meshes_deeper_than_categories_are_not_left_out_silently(meshes, tmp_path, capsys):
    (meshes / "ball" / "train").mkdir()
    (meshes / "ball" / "0.off").rename(meshes / "ball" / "train" / "0.off")
    with pytest.raises(SystemExit) as ended:
        main([str(meshes), str(tmp_path / "set"), "--points", "20", "--processes", "1"])
    assert ended.value.code == 2
    assert "meshes below the folders of categories: ball/train/0.off" in capsys.readouterr().err


def test_a_category_with_a_comma_keeps_its_name(meshes, tmp_path, capsys):
    """The name was cut at the comma, and fell together with another category."""
    (meshes / "block").rename(meshes / "ball,flat")
    folder = tmp_path / "a set, mine"
    main([str(meshes), str(folder), "--points", "20", "--processes", "1", "--val", "0.25", "--test", "0.25"])
    data = StoredShapes(folder=str(folder))
    data.setup()
    assert data.categories == ["ball", "ball,flat"]
    command = capsys.readouterr().out.splitlines()[1]
    assert composed_folder(command) == str(folder)


def composed_folder(command: str) -> str:
    from runner.config.compose import compose

    arguments = shlex.split(command)
    assert arguments[:3] == ["python", "-m", "runner"]
    return compose(arguments[3:]).dataset.folder


@pytest.mark.parametrize(
    "name", ["plain-1.0_x", "a,b", "a b", "{a}", "a=b", "it's", 'say "x"', "end\\", "$HOME", 'a\\"b']
)
def test_the_printed_command_names_the_folder_whatever_it_is_called(name):
    from runner.config.compose import compose

    (value,) = shlex.split(override_value(Path("/data") / name))
    cfg = compose(["method=occnet", "dataset=shape_folder", f"dataset.folder={value}"])
    assert cfg.dataset.folder == f"/data/{name}"
