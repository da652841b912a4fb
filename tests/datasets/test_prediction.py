"""Names of predictions: no result overwrites another."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.prediction import unique_names


def test_names_get_as_many_folders_as_tell_them_apart(tmp_path):
    paths = [tmp_path / name for name in ("a/x/cam_p.mp4", "b/x/cam_p.mp4", "c.mp4")]
    assert list(unique_names(paths).values()) == ["a_x_cam_p", "b_x_cam_p", "c"]
    assert unique_names([paths[2], paths[2]]) == {paths[2]: "c"}


def test_files_of_a_folder_that_differ_in_their_suffix_keep_it(tmp_path):
    assert list(unique_names([tmp_path / "a.ply", tmp_path / "a.off", tmp_path / "b.off"]).values()) == [
        "a_ply",
        "a_off",
        "b",
    ]


def test_names_that_stay_equal_are_refused():
    with pytest.raises(ValueError, match="told apart"):
        unique_names([Path("/a/b_c.txt"), Path("/a_b/c.txt"), Path("/c/b_c.txt"), Path("/c/c.txt")])


def test_names_without_what_a_kind_of_file_always_has():
    paths = [Path("/x/PTC.MR_A.txt"), Path("/y/PTC.MR_A.txt")]
    assert list(unique_names(paths, lambda path: path.name.removesuffix("_A.txt")).values()) == [
        "x_PTC.MR",
        "y_PTC.MR",
    ]


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4), min_size=1, max_size=8))
def test_no_two_files_get_one_name(names):
    paths = [Path("/", *parts[:-1], f"{parts[-1]}.txt") for parts in names]
    unique = unique_names(paths)
    assert set(unique) == set(paths)
    assert len(set(unique.values())) == len(set(paths))
