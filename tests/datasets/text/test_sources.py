"""Texts by name: structure of the published files, own files, and the messages for missing ones."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from pathlib import Path

import pytest

from datasets.download import CorruptData, MissingData
from datasets.text import sources
from datasets.text.sources import SOURCES, halves, read

WIKITEXT = " \n = Title = \n \n A paragraph . \n Another one . \n \n \n = = Part = = \n \n"
ROWS = ["", " = Title = \n", "", " A paragraph . \n", " Another one . \n", "", "", " = = Part = = \n", ""]


@pytest.fixture
def no_hub(monkeypatch) -> list[tuple[str, str, str]]:
    """Nothing is cached or can be downloaded, though the hub answers; the list holds what it was asked for."""
    asked = []

    def hub(repository: str, name: str, repo_type: str, local_files_only: bool = False) -> str:
        if local_files_only:
            raise FileNotFoundError("not in the cache")
        asked.append((repository, name, repo_type))
        raise ConnectionError("no route to the hub\nand more that nobody wants to read")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub)
    monkeypatch.setattr("datasets.hub.hub_answers", lambda: True)
    return asked


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("folder", ["text/wikitext2", "wikitext2", "wikitext-2-raw"])
def test_wikitexts_rows_are_the_hubs(tmp_path, folder):
    write(tmp_path / folder / "wiki.test.raw", WIKITEXT)
    assert read("wikitext2", tmp_path) == ROWS


def test_wikitexts_parquet_file_gives_the_same(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="parquet files need pyarrow: pip install '.[llm]'")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "wikitext-2-raw-v1" / "test-00000-of-00001.parquet"
    path.parent.mkdir()
    parquet.write_table(pa.table({"text": ROWS}), path)
    assert read("wikitext2", tmp_path) == ROWS
    path.write_bytes(b"PAR1, but no more")
    with pytest.raises(CorruptData, match=str(path)):
        read("wikitext2", tmp_path)


def test_published_wikitext(runner_data, no_hub):
    try:
        rows = read("wikitext2", runner_data)
    except MissingData as error:
        pytest.skip(str(error))
    assert len(rows) == 4358
    assert rows[:2] == ["", " = Robert Boulter = \n"]
    assert all(row == "" or (row.startswith(" ") and row.endswith(" \n") and row.count("\n") == 1) for row in rows)
    assert sum(re.fullmatch(r" = [^=]+ = \n", row) is not None for row in rows) == 62  # 60 articles, two formulas
    raw = "".join(row or " \n" for row in rows).encode()
    assert len(raw) == 1290590
    assert hashlib.sha256(raw).hexdigest().startswith("173c87a53759e0201f33")


@pytest.mark.parametrize(
    ("name", "count", "longest"),
    [("c4_sample", 584, None), ("tinystories", 317, None), ("wikipedia_sample", 2349, None)],
)
def test_published_samples(runner_data, name, count, longest):
    try:
        documents = read(name, runner_data)
    except MissingData as error:
        pytest.skip(str(error))
    assert len(documents) == count
    assert all(document.strip() == document for document in documents if name != "c4_sample")
    assert not any("<|endoftext|>" in document or "</doc>" in document for document in documents)


def test_c4s_first_shard(tmp_path, no_hub):
    texts = ["First.\nSecond line.", "Ünïcode"]
    content = "".join(json.dumps({"text": text, "url": "u"}) + "\n" for text in texts)
    write(tmp_path / "c4/en/c4-train.00000-of-01024.json.gz", gzip.compress(content.encode()))
    assert read("c4", tmp_path) == texts
    assert not no_hub


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:-20],
        lambda whole: b"<html>404</html>",
        lambda whole: gzip.compress(b'{"url": "u"}\n'),
        lambda whole: gzip.compress(b"not json\n"),
        lambda whole: gzip.compress(b"[1, 2]\n"),
    ],
)
def test_a_damaged_shard_is_named(tmp_path, damage):
    whole = gzip.compress(json.dumps({"text": "a" * 5000}).encode())
    path = write(tmp_path / "c4/en/c4-train.00000-of-01024.json.gz", damage(whole))
    with pytest.raises(CorruptData, match=str(path)):
        read("c4", tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "content", "documents"),
    [
        ("c4_sample", "c4_sample.txt", "One.\n\n  Two, indented.\nThree\u2028with a line separator.", 3),
        ("tinystories", "tinystories_sample.txt", "Once.\n<|endoftext|>\nTwice.\n\nMore.\n<|endoftext|>\n", 2),
        ("wikipedia_sample", "wikipedia_sample.txt", '<doc id="1">\nA\n\na.\n</doc>\n<doc id="2">\nB\n</doc>\n', 2),
    ],
)
@pytest.mark.parametrize("folder", ["text/calib", "calib", "."])
def test_samples_are_cut_in_documents(tmp_path, folder, name, file, content, documents):
    write(tmp_path / folder / file, content)
    found = read(name, tmp_path)
    assert len(found) == documents
    for document in found:
        assert document in content
    joined = "".join("".join(found).split())
    assert joined == "".join(content.replace("<|endoftext|>", "").replace("</doc>", "").split())


def test_topics_need_no_files(tmp_path):
    documents = read("topics", tmp_path)
    assert len(documents) > 50
    assert sum(map(len, documents)) > 300_000
    assert any("if_stmt" in document for document in documents)


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "topics"])
def test_missing_files_are_said_with_their_places(tmp_path, no_hub, name):
    with pytest.raises(MissingData) as error:
        read(name, tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "RUNNER_DATA" in str(error.value)
    if name in ("c4", "wikitext2"):
        assert len(no_hub) == 1
        assert no_hub[0][2] == "dataset"
        assert "no route to the hub" in str(error.value)
        assert "nobody wants" not in str(error.value)
    else:
        assert not no_hub


def test_an_error_of_the_hub_without_words_is_one_message_too(tmp_path, monkeypatch):
    def hub(*_, **__) -> str:
        raise TimeoutError

    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub)
    with pytest.raises(MissingData, match="RUNNER_DATA"):
        read("c4", tmp_path)


def test_what_is_missing_comes_from_the_hub(tmp_path, monkeypatch):
    path = write(tmp_path / "cache/shard.json.gz", gzip.compress(b'{"text": "a"}\n'))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: str(path))
    assert read("c4", tmp_path / "data") == ["a"]


def test_files_of_ones_own(tmp_path):
    text = write(tmp_path / "a.txt", "One.\n\nTwo.\n  \nThree.")
    assert read(str(text), "nowhere") == ["One.", "Two.", "Three."]
    lines = write(tmp_path / "a.jsonl", '{"text": "One.\\nStill one."}\n\n{"text": "Two.", "n": 1}\n')
    assert read(str(lines), "nowhere") == ["One.\nStill one.", "Two."]


@pytest.mark.parametrize(
    ("content", "documents"),
    [
        ('["One.\\nStill one.", "Two."]', ["One.\nStill one.", "Two."]),
        ('[\n  {"text": "One."},\n  {"text": "Two.", "n": 1}\n]', ["One.", "Two."]),
        ('{"text": "One."}', ["One."]),
        ('{"text": "One."}\n{"text": "Two."}\n', ["One.", "Two."]),  # JSON lines under the wrong name
    ],
)
def test_a_json_file_is_read_as_json(tmp_path, content, documents):
    assert read(str(write(tmp_path / "a.json", content)), "nowhere") == documents


@pytest.mark.parametrize("content", ["[1, 2]", '[{"txt": "a"}]', '{"texts": ["a"]}', "[", "3", "null", "[]"])
def test_a_json_file_without_texts_is_named(tmp_path, content):
    path = write(tmp_path / "a.json", content)
    with pytest.raises(CorruptData, match=str(path)):
        read(str(path), tmp_path)


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.jsonl.gz", "a.zst"])
def test_files_of_other_kinds_are_not_read_as_text(tmp_path, name):
    path = write(tmp_path / name, "One.\nTwo.\n")
    with pytest.raises(ValueError, match=r"has the suffix .*read from \.txt.*\.jsonl, \.json"):
        read(str(path), tmp_path)


def test_a_file_without_documents_is_named(tmp_path):
    path = write(tmp_path / "a.txt", "\n \n")
    with pytest.raises(CorruptData, match=f"{path} holds no documents"):
        read(str(path), tmp_path)


@pytest.mark.parametrize("name", ["nonsense", "none.txt", "."])
def test_an_unknown_text_is_said_with_the_known(tmp_path, name):
    with pytest.raises(ValueError, match=r"neither a file nor a known text; known texts: wikitext2, c4, .*topics"):
        read(name, tmp_path)


@pytest.mark.parametrize("content", ["not json\n", '{"txt": "a"}\n', '["a"]\n', '{"text": null}\n'])
def test_a_damaged_file_of_ones_own_is_named(tmp_path, content):
    path = write(tmp_path / "a.jsonl", content)
    with pytest.raises(CorruptData, match=str(path)):
        read(str(path), tmp_path)


def test_what_is_not_utf8_is_named(tmp_path):
    path = write(tmp_path / "a.txt", "é".encode("latin-1"))
    with pytest.raises(CorruptData, match=f"{path} is not UTF-8"):
        read(str(path), tmp_path)


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_halves_deal_the_documents_out(count):
    documents = [str(i) for i in range(count)]
    first, second = halves(documents)
    assert first == [d for d in documents if int(d) % 2 == 0]
    assert second == [d for d in documents if int(d) % 2 == 1]


def test_every_source_says_what_it_is():
    assert all(source.__doc__ for source in sources.SOURCES.values())
