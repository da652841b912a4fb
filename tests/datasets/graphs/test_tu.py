"""Readers of the TU collection on files written by hand."""

from __future__ import annotations

import io
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from datasets.download import CorruptData, MissingData
from datasets.graphs import gin_text, tu
from datasets.graphs.gin_text import find_gin, read_gin
from datasets.graphs.store import GraphStore
from datasets.graphs.tu import find_tu, read_tu

TOY = {  # a triangle, a path of three nodes, a single node
    "A": "1, 2\n2, 1\n2, 3\n3, 2\n1, 3\n3, 1\n4, 5\n5, 4\n5, 6\n6, 5\n",
    "graph_indicator": "1\n1\n1\n2\n2\n2\n3\n",
    "graph_labels": "1\n-1\n1\n",
    "node_labels": "7\n7\n3\n3\n7\n9\n9\n",
}
TOY_GIN = "3\n3 1\n7 2 1 2\n7 2 0 2\n3 2 0 1\n3 -1\n3 1 1\n7 2 0 2\n9 1 1\n1 1\n9 0\n"


def write_tu(folder: Path, parts: dict[str, str | None], name: str = "TOY") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part, text in parts.items():
        if text is not None:
            (folder / f"{name}_{part}.txt").write_text(text)
    return folder


def write_gin(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def edge_index(store: GraphStore) -> torch.Tensor:
    return torch.stack([torch.repeat_interleave(store.rowptr.diff()), store.col])


def check_toy(store: GraphStore) -> None:
    assert store.sizes.tolist() == [3, 3, 1]
    assert store.y.tolist() == [1, 0, 1]
    assert store.x.tolist() == [1, 1, 0, 0, 1, 2, 2]
    assert store.num_features == 3
    assert edge_index(store).T.tolist() == [
        [0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1], [3, 4], [4, 3], [4, 5], [5, 4]
    ]  # fmt: skip


def test_both_formats_of_a_collection_written_by_hand(tmp_path):
    check_toy(read_tu(write_tu(tmp_path, TOY), "TOY"))
    check_toy(read_gin(write_gin(tmp_path / "TOY.txt", TOY_GIN)))


def test_self_loops_and_repeated_edges_are_dropped(tmp_path):
    check_toy(read_tu(write_tu(tmp_path, TOY | {"A": TOY["A"] + "1, 2\n2, 1\n7, 7\n4, 4\n"}), "TOY"))
    check_toy(read_gin(write_gin(tmp_path / "TOY.txt", TOY_GIN.replace("7 2 1 2", "7 4 1 2 1 0"))))


def test_without_node_labels_the_degree_stands_in(tmp_path):
    unlabelled = TOY | {"node_labels": None}
    store = read_tu(write_tu(tmp_path, unlabelled), "TOY")  # degrees 2 2 2 1 2 1 0
    assert store.x.tolist() == [2, 2, 2, 1, 2, 1, 0]
    store = read_tu(write_tu(tmp_path, unlabelled | {"A": TOY["A"] + "1, 1\n1, 1\n"}), "TOY")
    assert store.x.tolist() == [3, 2, 2, 1, 2, 1, 0]  # a self loop counts once
    assert store.num_features == 4
    store = read_gin(write_gin(tmp_path / "TOY.txt", "2\n3 0\n0 3 1 2 0\n0 1 0\n0 1 0\n2 1\n0 0\n0 0\n"))
    assert store.x.tolist() == [2, 1, 1, 0, 0]  # of the degrees 0, 1, 3
    assert store.num_features == 3


def with_attributes(text: str) -> str:
    """The TOY collection in the GIN text format, with the attributes (number of the node, -0.5) at each node."""
    lines, number = text.splitlines(), 0
    for i, line in enumerate(lines):
        tag, count, *rest = [*line.split(), "x"]
        if rest[:-1] or line == "9 0":  # a node, not the head of the file or of a graph
            lines[i] = f"{tag} {count} {' '.join(rest[:-1])} {number} -5e-1"
            number += 1
    return "\n".join(lines) + "\n"


ATTRIBUTES = [[float(i), -0.5] for i in range(7)]
ONE_HOT = [[0, 1, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]
DEGREES = [2, 2, 2, 1, 2, 1, 0]


def rows(store: GraphStore) -> list[list[float]]:
    return store.select(torch.arange(len(store))).x.tolist()


def read_both(tmp_path: Path, features: str) -> Iterator[GraphStore]:
    attributes = "".join(f"{a}, {b}\n" for a, b in ATTRIBUTES)
    yield read_tu(write_tu(tmp_path, TOY | {"node_attributes": attributes}), "TOY", features)
    yield read_gin(write_gin(tmp_path / "TOY.txt", with_attributes(TOY_GIN)), features)


@pytest.mark.parametrize(
    ("features", "expected", "said"),
    [
        ("auto", ONE_HOT, "node labels, one-hot (3 values); not used: node attributes (2 columns"),
        ("labels", ONE_HOT, "node labels, one-hot (3 values); not used: node attributes (2 columns"),
        ("attributes", ATTRIBUTES, "node attributes (2 columns); not used: node labels"),
        (
            "both",
            [[*a, *b] for a, b in zip(ATTRIBUTES, ONE_HOT, strict=True)],
            "attributes (2 columns) and node labels",
        ),
        ("degree", [[float(d == value) for value in range(3)] for d in DEGREES], "the degree, one-hot (3 values)"),
        ("constant", [[1.0]] * 7, "a constant 1; not used: node labels, node attributes"),
    ],
)
def test_node_features_are_what_is_chosen_and_said(tmp_path, caplog, features, expected, said):
    caplog.set_level("INFO")
    for store in read_both(tmp_path, features):
        assert rows(store) == expected
        assert store.num_features == len(expected[0])
    assert caplog.text.count(f"TOY: node features are {said}" if said[0] != "a" or said[1] == " " else said) == 2


def test_attributes_alone_are_read(tmp_path, caplog):
    caplog.set_level("INFO")
    parts = TOY | {"node_labels": None, "node_attributes": "".join(f"{a}, {b}\n" for a, b in ATTRIBUTES)}
    store = read_tu(write_tu(tmp_path, parts | {"edge_labels": "1\n" * 10, "graph_attributes": "1\n" * 3}), "TOY")
    assert rows(store) == ATTRIBUTES
    assert "node attributes (2 columns); not used: edge labels, graph attributes" in caplog.text


@pytest.mark.parametrize("features", ["labels", "attributes", "both"])
def test_features_that_the_files_do_not_have_are_named(tmp_path, features):
    bare = "2\n2 0\n0 1 1\n0 1 0\n2 1\n0 1 1\n0 1 0\n"
    says = rf"dataset\.node_features={features}: TOY does not have node .*; choose from auto, degree, constant"
    with pytest.raises(ValueError, match=says):
        read_tu(write_tu(tmp_path, TOY | {"node_labels": None}), "TOY", features)
    with pytest.raises(ValueError, match=says):
        read_gin(write_gin(tmp_path / "TOY.txt", bare), features)


def test_each_column_of_node_labels_counts(tmp_path):
    second = "1\n2\n1\n2\n1\n2\n5\n"
    both = [f"{a}, {b}" for a, b in zip(TOY["node_labels"].split(), second.split(), strict=True)]
    store = read_tu(write_tu(tmp_path, TOY | {"node_labels": "\n".join(both)}), "TOY")
    columns = [[float(b == value) for value in "125"] for b in second.split()]
    assert rows(store) == [[*a, *b] for a, b in zip(ONE_HOT, columns, strict=True)]


def test_a_collection_for_regression_is_named(tmp_path):
    parts = TOY | {"graph_labels": None, "graph_attributes": "0.5\n0.1\n2\n"}
    with pytest.raises(CorruptData, match=r"TOY_graph_labels\.txt is missing: TOY is for regression"):
        read_tu(write_tu(tmp_path, parts), "TOY")


def test_blank_lines_at_the_end_are_no_rows(tmp_path):
    check_toy(read_tu(write_tu(tmp_path, {part: text + "\n \n" for part, text in TOY.items()}), "TOY"))
    check_toy(read_gin(write_gin(tmp_path / "TOY.txt", TOY_GIN + "\n \n")))


def test_gin_text_may_have_attributes_and_lie_in_a_zip(tmp_path):
    check_toy(read_gin(write_gin(tmp_path / "TOY.txt", with_attributes(TOY_GIN))))
    with zipfile.ZipFile(tmp_path / "TOY.zip", "w") as archive:
        archive.writestr("TOY/TOY.txt", TOY_GIN)
    check_toy(read_gin(tmp_path / "TOY.zip"))


@pytest.mark.parametrize(
    ("part", "text", "says"),
    [
        ("A", TOY["A"] + "6, 8\n8, 6\n", "outside 1..7"),
        ("A", TOY["A"] + "0, 1\n1, 0\n", "outside 1..7"),
        ("A", TOY["A"] + "4, 6\n", "one direction"),
        ("A", TOY["A"] + "1, 4\n4, 1\n", "two different graphs"),
        ("A", TOY["A"] + "5, \n", ""),
        ("A", "1\n2\n", "2 numbers, has 1"),
        ("A", "", "no lines"),
        ("A", "<html>404</html>\n", "html"),
        ("A", None, "missing"),
        ("graph_indicator", "1\n1\n1\n2\n2\n3\n2\n", "sorted"),
        ("graph_indicator", "0\n0\n0\n1\n1\n1\n2\n", "3 graphs"),
        ("graph_indicator", "", "no lines"),
        ("graph_indicator", None, "missing"),
        ("graph_labels", "1\n-1\n", "2 graphs"),
        ("graph_labels", "1\n-1\n1\n1\n", "4 graphs"),
        ("graph_labels", "1\n-1\none\n", "one"),
        ("graph_labels", None, "missing"),
        ("A", "1, 2, 1\n2, 1, 1\n", "2 numbers, has 3"),
        ("A", "# 1, 2\n" + TOY["A"], "#"),
        ("A", "1, 99999999999999999999\n", ""),
        ("graph_indicator", "1\n1\n1\n\n2\n2\n2\n3\n", "line 4 is blank"),
        ("graph_indicator", "\n" + TOY["graph_indicator"], "line 1 is blank"),
        ("graph_indicator", TOY["graph_indicator"].replace("\n", ", 1\n"), "1 numbers, has 2"),
        ("graph_labels", "1\n \n-1\n1\n", "line 2 is blank"),
        ("graph_labels", "1, 0\n-1, 0\n1, 0\n", "1 numbers, has 2"),
        ("node_labels", TOY["node_labels"].replace("3\n3", "3\n\n3"), "line 4 is blank"),
        ("node_attributes", "0.5\n" * 6, "6 lines for 7 nodes"),
        ("node_attributes", "0.5\n" * 6 + "nan\n", "line 7 has a value that is not finite"),
        ("node_attributes", "0.5\n" * 6 + "0.5, 1\n", ""),
        ("node_labels", "7\n7\n3\n", "3 lines for 7 nodes"),
        ("node_labels", TOY["node_labels"] + "1\n", "8 lines for 7 nodes"),
        ("node_labels", "", "no lines"),
    ],
    ids=lambda value: repr(value)[-20:],
)
def test_a_damaged_tu_file_is_named(tmp_path, part, text, says):
    with pytest.raises(CorruptData) as error:
        read_tu(write_tu(tmp_path, TOY | {part: text}), "TOY")
    assert str(tmp_path / f"TOY_{part}.txt") in str(error.value)
    assert says in str(error.value)


@pytest.mark.parametrize("length", range(0, len(TOY_GIN) - 4, 3))
def test_gin_text_cut_short_is_named(tmp_path, length):
    path = write_gin(tmp_path / "TOY.txt", TOY_GIN[:length])
    with pytest.raises(CorruptData, match=str(path)):
        read_gin(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("7 2 1 2", "7 2 1 3"),  # a node of the next graph
        ("7 2 1 2", "7 2 1 -1"),
        ("7 2 1 2", "7 2 1"),
        ("9 1 1", "9 1 9"),
        ("7 2 1 2", "7 1 1"),  # one direction only
        ("3\n3 1", "2\n3 1"),  # one graph more than it says
        ("7 2 1 2", "7 x 1 2"),
        ("7 2 1 2", "7 1.5 1 2"),
        ("3\n3 1", "3\n3"),
        ("3\n3 1", "3\n3 1 1"),  # a second label of the graph
        ("3 -1\n", "3 -1\n\n"),
        ("7 2 1 2", "7 2 1 2 0.5"),  # an attribute of one node alone
        ("7 2 1 2", "7 -1 1 2"),
        ("9 0", "9 0 inf"),
    ],
)
def test_damaged_gin_text_is_named(tmp_path, old, new):
    path = write_gin(tmp_path / "TOY.txt", TOY_GIN.replace(old, new, 1))
    with pytest.raises(CorruptData, match=str(path)):
        read_gin(path)


def test_damaged_gin_text_is_named_with_its_line(tmp_path):
    path = write_gin(tmp_path / "TOY.txt", TOY_GIN.replace("3 1 1", "3 x 1"))
    with pytest.raises(CorruptData, match=r"TOY\.txt, line 7: "):
        read_gin(path)


def test_an_encrypted_zip_of_gin_text_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "TOY.zip", "w") as archive:
        archive.writestr("TOY/TOY.txt", TOY_GIN)
    content = bytearray((tmp_path / "TOY.zip").read_bytes())
    content[6] |= 1
    content[content.find(b"PK\1\2") + 8] |= 1
    (tmp_path / "TOY.zip").write_bytes(content)
    with pytest.raises(CorruptData, match=r"TOY\.zip cannot be read: .*encrypted"):
        read_gin(tmp_path / "TOY.zip")


def test_a_damaged_zip_of_gin_text_is_named(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("TOY/TOY.txt", TOY_GIN)
    for content in (b"<html>", buffer.getvalue()[:-20], buffer.getvalue().replace(b"TOY/TOY", b"TOY/BOY")):
        (tmp_path / "TOY.zip").write_bytes(content)
        with pytest.raises(CorruptData, match=str(tmp_path / "TOY.zip")):
            read_gin(tmp_path / "TOY.zip")


def test_folders_are_found_as_torch_geometric_lays_them_out(tmp_path):
    for root, layout in ((tmp_path / "a", "TUDataset/TOY"), (tmp_path / "b", "TOY")):
        plain, cleaned = write_tu(root / layout / "raw", TOY), write_tu(root / layout / "raw_cleaned", TOY)
        assert find_tu(root, "TOY") == plain
        assert find_tu(root, "TOY", cleaned=True) == cleaned
    (tmp_path / "dataset" / "TOY").mkdir(parents=True)
    text = write_gin(tmp_path / "dataset" / "TOY" / "TOY.txt", TOY_GIN)
    assert find_gin(tmp_path, "TOY") == text


@pytest.fixture
def served(tmp_path) -> Iterator[tuple[Path, str]]:
    """A folder and the address of its files."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as http:
        thread = threading.Thread(target=http.serve_forever, args=[0.02])
        thread.start()
        yield folder, f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_what_is_missing_is_downloaded_once(served, tmp_path, monkeypatch):
    folder, url = served
    monkeypatch.setattr(tu, "TU_URL", url + "/{name}.zip")
    monkeypatch.setattr(gin_text, "GIN_URL", url + "/gin.zip")
    with zipfile.ZipFile(folder / "TOY.zip", "w") as archive:
        for part, text in TOY.items():
            archive.writestr(f"TOY/TOY_{part}.txt", text)
    with zipfile.ZipFile(folder / "gin.zip", "w") as archive:
        archive.writestr("dataset/TOY/TOY.txt", TOY_GIN)
    for _ in range(2):
        check_toy(read_tu(find_tu(tmp_path / "data", "TOY"), "TOY"))
        check_toy(read_gin(find_gin(tmp_path / "data", "TOY")))
        for path in list(folder.iterdir()):
            path.unlink()
    with pytest.raises(MissingData, match="OTHER"):
        find_gin(tmp_path / "data", "OTHER")  # the archive is there and has no such collection


@pytest.mark.parametrize(("cleaned", "folder"), [(False, "graphs/tu_raw"), (True, "graphs/tu_cleaned")])
def test_an_archive_below_the_data_folder_is_taken_before_a_download(tmp_path, monkeypatch, cleaned, folder):
    monkeypatch.setattr(tu, "TU_URL", "http://127.0.0.1:9/{name}.zip")
    monkeypatch.setattr(tu, "CLEANED_URL", "http://127.0.0.1:9/{name}.zip")
    (tmp_path / folder).mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / folder / "TOY.zip", "w") as archive:
        for part, text in TOY.items():
            archive.writestr(f"TOY/TOY_{part}.txt", text)
    check_toy(read_tu(find_tu(tmp_path, "TOY", cleaned), "TOY"))


def test_a_downloaded_archive_without_the_collection_is_named(served, tmp_path, monkeypatch):
    folder, url = served
    monkeypatch.setattr(tu, "TU_URL", url + "/{name}.zip")
    with zipfile.ZipFile(folder / "TOY.zip", "w") as archive:
        archive.writestr("TOY/README.txt", "")
    with pytest.raises(CorruptData, match=r"no TOY_A\.txt"):
        find_tu(tmp_path / "data", "TOY")


def test_without_network_the_message_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(tu, "TU_URL", "http://127.0.0.1:9/{name}.zip")
    monkeypatch.setattr(gin_text, "GIN_URL", "http://127.0.0.1:9/gin.zip")
    for find, wanted in ((find_tu, "TUDataset/TOY/raw/TOY_A.txt"), (find_gin, "dataset/TOY/TOY.txt")):
        with pytest.raises(MissingData) as error:
            find(tmp_path / "data", "TOY")
        assert str(tmp_path / "data" / wanted) in str(error.value)
        assert "http://127.0.0.1:9/" in str(error.value)
        assert not (tmp_path / "data").exists()
