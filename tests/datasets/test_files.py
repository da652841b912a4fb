"""Files that are written whole or not at all."""

from __future__ import annotations

import pytest

from datasets.files import atomic_write


def test_the_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("old")
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.suffix == ".csv"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_write(path) as temporary:
        temporary.with_name("absent").read_text()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
