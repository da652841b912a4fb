"""The DataModule of texts: which documents go where, and its windows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from datasets.download import MissingData
from datasets.text.datamodule import TextData

EVALUATED = [f"evaluated document {i}" for i in range(7)]
CALIBRATED = ["calibrated " * n for n in (1, 30, 50)]


def encode(text: str) -> list[int]:
    return [1, *text.encode()]


@pytest.fixture
def texts(tmp_path) -> dict[str, str]:
    files = {"evaluate": EVALUATED, "source": CALIBRATED}
    for name, documents in files.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(documents))
    return {name: str(tmp_path / f"{name}.txt") for name in files}


def made(texts: dict[str, str], longest: int = 100, calibration: dict | None = None, **settings) -> TextData:
    plan = {"source": texts["source"], "samples": 3, "length": 20} | (calibration or {})
    data = TextData(**({"evaluate": texts["evaluate"], "window": 16} | settings), calibration=plan)
    data.prepare_data()
    data.setup()
    data.tokenize(encode, longest)
    return data


def test_windows_of_both_texts(texts):
    data = made(texts)
    tokens = encode("\n\n".join(EVALUATED))
    assert data.test.dtype == data.calibration.dtype == torch.int64
    assert data.test.tolist() == [tokens[i : i + 16] for i in range(0, len(tokens) - 15, 16)]
    assert data.calibration.shape == (3, 20)
    long = [encode(document.strip()) for document in CALIBRATED[1:]]
    for window in data.calibration.tolist():
        assert any(window == tokens[i : i + 20] for tokens in long for i in range(len(tokens)))


def test_one_text_is_dealt_out_to_both(texts):
    data = made(texts, calibration={"source": texts["evaluate"], "sampling": "text", "samples": 50})
    assert data.documents == EVALUATED[1::2]
    assert data.calibration_documents == EVALUATED[::2]
    tokens = encode("\n\n".join(EVALUATED[::2]))
    windows = [tokens[i : i + 20] for i in range(len(tokens) - 20)]
    assert all(window in windows for window in data.calibration.tolist())
    assert len({tuple(window) for window in data.calibration.tolist()}) > 10


def test_the_calibrations_seed_alone_decides_its_windows(texts):
    first, same, other = (made(texts, calibration={"seed": seed}, seed=9 - seed) for seed in (1, 1, 2))
    assert torch.equal(first.calibration, same.calibration)
    assert not torch.equal(first.calibration, other.calibration)
    assert torch.equal(first.test, other.test)


def test_without_a_window_it_is_the_models(texts):
    assert made(texts, longest=24, window=None).test.shape[1] == 24
    assert made(texts, limit=2).test.shape == (2, 16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 65}, "dataset.window=65, but this model takes 64 tokens at most"),
        ({"calibration": {"length": 65}}, "dataset.calibration.length=65, but this model takes 64 tokens at most"),
    ],
)
def test_windows_longer_than_the_model_takes_are_refused(texts, settings, message):
    with pytest.raises(ValueError, match=message):
        made(texts, longest=64, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 0}, r"dataset\.window must be positive, got 0"),
        ({"window": 1}, r"dataset\.window must be at least 2"),
        ({"limit": 0}, r"dataset\.limit must be positive"),
        ({"questions": -1}, r"dataset\.questions must be positive"),
        ({"limit": 1.5}, r"dataset\.limit must be a positive whole number, got 1\.5"),
        (
            {"calibration": {"samples": True}},
            r"dataset\.calibration\.samples must be a positive whole number, got True",
        ),
        ({"calibration": {"seed": 0.5}}, r"dataset\.calibration\.seed must be a whole number in .*, got 0\.5"),
        ({"zeroshot": "boolq"}, r"must be a list of tasks, got boolq: write dataset\.zeroshot=\[boolq\]"),
        (
            {"calibration": {"sampling": "words"}},
            r"dataset\.calibration\.sampling=words is unknown; choose from documents, text",
        ),
        ({"calibration": {"samples": 0}}, r"dataset\.calibration\.samples must be positive, got 0"),
        ({"calibration": {"length": 0}}, r"dataset\.calibration\.length must be positive, got 0"),
        ({"evaluate": "nonsense"}, "nonsense is neither a file nor a known text"),
        ({"calibration": {"source": "nonsense"}}, "nonsense is neither a file nor a known text"),
        ({"zeroshot": ["nonsense"]}, "nonsense"),
        ({"calibration": {"length": 600, "sampling": "documents"}}, "no calibration document has more than 600 tokens"),
        ({"calibration": {"length": 950, "sampling": "text"}}, "the calibration text has"),
        ({"window": 900}, "fewer than a window of 900"),
    ],
)
def test_mistakes_are_named(texts, settings, message):
    with pytest.raises(ValueError, match=message):
        made(texts, longest=1000, **settings)


def test_missing_texts_are_said_before_anything_is_read(tmp_path):
    data = TextData(evaluate="tinystories", calibration={"source": "topics"}, root=tmp_path)
    with pytest.raises(MissingData, match=str(tmp_path)):
        data.setup()


def test_the_loader_yields_the_text_then_each_task(texts, tmp_path):
    path = tmp_path / "text" / "zeroshot" / "openbook_qa.jsonl"
    path.parent.mkdir(parents=True)
    rows = [{"query": f"question {i}", "choices": ["one", "two"], "gold": i % 2} for i in range(5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = made(texts, zeroshot=["openbookqa"], questions=3, root=str(tmp_path))
    text, task = list(data.test_dataloader())
    assert text["name"] == texts["evaluate"]
    assert torch.equal(text["tokens"], data.test)
    assert task["name"] == "openbookqa"
    assert [(e.contexts[0], e.choices, e.gold) for e in task["examples"]] == [
        (f"question {i}", (" one", " two"), i % 2) for i in range(3)
    ]
    assert len(list(made(texts).test_dataloader())) == 1


def test_setting_up_twice_reads_once(texts):
    data = made(texts)
    Path(texts["evaluate"]).unlink()
    data.setup("test")
    assert data.documents == EVALUATED


def test_the_loader_wants_tokens_first(texts):
    data = TextData(evaluate=texts["evaluate"], calibration={"source": texts["source"]})
    data.setup()
    with pytest.raises(RuntimeError, match="tokenize"):
        data.test_dataloader()


def test_what_the_model_is_told_and_which_task_it_is(texts, tmp_path):
    data = TextData(evaluate=texts["evaluate"], calibration={"source": texts["source"]}, root=tmp_path)
    assert data.dims == {"root": tmp_path}
    assert data.task == "language-modelling"
