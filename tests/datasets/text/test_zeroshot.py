"""Zero-shot questions: the prompts of each layout, literally, and the published data sets where they are."""

from __future__ import annotations

import bz2
import hashlib
import json
import re
import sys
import zipfile
from pathlib import Path

import pytest

from datasets.download import CorruptData, MissingData
from datasets.text import zeroshot
from datasets.text.zeroshot import TASKS, Example, read

COUNTS = {
    "boolq": 3270,
    "rte": 277,
    "hellaswag": 10042,
    "winogrande": 1267,
    "arc_easy": 2376,
    "arc_challenge": 1172,
    "openbookqa": 500,
    "piqa": 1838,
}

ARC = {
    "id": "1",
    "question": "What melts?",
    "choices": {"text": ["ice", "sand", "air"], "label": ["1", "2", "3"]},
    "answerKey": "1",
}
PARQUET = {  # the hub's file, a row of it, what is asked
    "boolq": (
        "google/boolq/data/validation-00000-of-00001.parquet",
        {"question": "is it wet", "answer": True, "passage": "Water is wet."},
        Example(("Water is wet.\nQuestion: is it wet?\nAnswer:",) * 2, (" no", " yes"), 1),
    ),
    "boolq, SuperGLUE": (
        "super_glue/boolq/validation-00000-of-00001.parquet",
        {"question": "is it dry", "passage": "Water is wet.", "idx": 0, "label": 0},
        Example(("Water is wet.\nQuestion: is it dry?\nAnswer:",) * 2, (" no", " yes"), 0),
    ),
    "rte": (
        "nyu-mll/glue/rte/validation-00000-of-00001.parquet",
        {"sentence1": 'He said "no".', "sentence2": "He spoke.", "label": 0, "idx": 0},
        Example(('He said "no".\nQuestion: He spoke. True or False?\nAnswer:',) * 2, (" True", " False"), 0),
    ),
    "hellaswag": (
        "hellaswag/data/validation-00000-of-00001.parquet",
        {
            "activity_label": "Clean and jerk",
            "ctx_a": "A lady walks  to a barbell.",
            "ctx_b": "the Lady",
            "ctx": "A lady walks  to a barbell. the Lady",
            "endings": ["swings [title] Land.", " pulls.", "[step] rests.", "lifts [substeps] it."],
            "label": "3",
        },
        Example(
            ("Clean and jerk: A lady walks to a barbell. The lady",) * 4,
            (" swings. Land.", " pulls.", "  rests.", " lifts it."),
            3,
        ),
    ),
    "hellaswag, WikiHow": (
        "Rowan/hellaswag/data/validation-00000-of-00001.parquet",
        {
            "activity_label": "Home",
            "ctx_a": "[header] How to sweep [title] Take a broom. [step] Hold it.",
            "ctx_b": "",
            "ctx": "",
            "endings": ["Go.", "Stop."],
            "label": "0",
        },
        Example(("Home: How to sweep. Take a broom. Hold it.",) * 2, (" Go.", " Stop."), 0),
    ),
    "winogrande": (
        "allenai/winogrande/winogrande_xl/validation-00000-of-00001.parquet",
        {"sentence": "Ann met Bob and _ 's dog_.", "option1": "Ann", "option2": "Bob", "answer": "2"},
        Example(("Ann met Bob and Ann", "Ann met Bob and Bob"), (" 's dog_.", " 's dog_."), 1),
    ),
    "arc_easy": (
        "allenai/ai2_arc/ARC-Easy/test-00000-of-00001.parquet",
        ARC,
        Example(("Question: What melts?\nAnswer:",) * 3, (" ice", " sand", " air"), 0),
    ),
    "arc_challenge": (
        "ai2_arc/ARC-Challenge/test-00000-of-00001.parquet",
        ARC | {"answerKey": "3"},
        Example(("Question: What melts?\nAnswer:",) * 3, (" ice", " sand", " air"), 2),
    ),
    "openbookqa": (
        "allenai/openbookqa/main/test-00000-of-00001.parquet",
        {
            "id": "8-376",
            "question_stem": "A fog is over",
            "choices": {"text": ["a marsh", "a desert"], "label": ["A", "B"]},
            "answerKey": "A",
        },
        Example(("A fog is over",) * 2, (" a marsh", " a desert"), 0),
    ),
}
TEXT = {  # the file in text/zeroshot, its content, what is asked
    "boolq": (
        "boolq.jsonl",
        '{"query": "Passage: Water is wet.\\nQuestion: is it wet?", "choices": ["no", "yes"], "gold": 1}\n',
        PARQUET["boolq"][2],
    ),
    "hellaswag": (
        "hellaswag_val_full.txt.bz2",
        "Roof: A man is on a roof. he\n3\nis down.\nwraps  skis.\nis [sic] level.\nstarts.\n",
        Example(("Roof: A man is on a roof. He",) * 4, (" is down.", " wraps skis.", " is level.", " starts."), 3),
    ),
    "winogrande": (
        "winogrande.jsonl",
        '{"context_options": ["so Ann", "so Bob"], "continuation": "ran.", "gold": 1}\n',
        Example(("so Ann", "so Bob"), (" ran.", " ran."), 1),
    ),
    "arc_easy": (
        "arc_easy.jsonl",
        '{"query": "Question: It will", "choices": ["sink", "sink", "rise"], "gold": 2}\n',
        Example(("Question: It will\nAnswer:",) * 2, (" sink", " rise"), 1),
    ),
    "arc_challenge": (
        "arc_challenge.jsonl",
        '{"query": "Question: What melts?", "choices": ["ice", "sand"], "gold": 0}\n',
        Example(("Question: What melts?\nAnswer:",) * 2, (" ice", " sand"), 0),
    ),
    "openbookqa": (
        "openbook_qa.jsonl",
        '{"query": "A fog is over", "choices": ["a marsh", "a desert"], "gold": 0}\n\n',
        PARQUET["openbookqa"][2],
    ),
    "piqa": (
        "piqa.jsonl",
        '{"query": "Question: open a jar\\n", "choices": ["turn the lid", "sing"], "gold": 0}\n',
        Example(("Question: open a jar\nAnswer:",) * 2, (" turn the lid", " sing"), 0),
    ),
}


def write_parquet(path: Path, rows: list[dict]) -> Path:
    pa = pytest.importorskip("pyarrow", reason="parquet files need pyarrow: pip install '.[llm]'")
    parquet = pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_text(root: Path, name: str, content: str) -> Path:
    path = root / "text" / "zeroshot" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bz2.compress(content.encode()) if name.endswith(".bz2") else content.encode())
    return path


def write_piqa(root: Path, labels: str = "1\n0\n") -> Path:
    path = root / "piqa" / "physicaliqa-train-dev.zip"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"id": "a", "goal": "open a jar", "sol1": "sing", "sol2": "turn the lid"},
        {"id": "b", "goal": "sleep?", "sol1": "lie down", "sol2": "run\u2028fast"},
    ]
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("physicaliqa-train-dev/dev.jsonl", "\n".join(json.dumps(row) for row in rows) + "\n")
        file.writestr("physicaliqa-train-dev/dev-labels.lst", labels)
    return path


@pytest.fixture
def no_hub(monkeypatch) -> list[tuple[str, str]]:
    """Nothing is cached or downloaded, though the hub answers; the list holds what it was asked for."""
    asked = []

    def hub(repository: str, name: str, repo_type: str, local_files_only: bool = False) -> str:
        if not local_files_only:
            asked.append((repository, name))
        raise ConnectionError("no route to the hub")

    def fetch(url: str, *_) -> Path:
        asked.append((url, ""))
        raise ConnectionError("no route to the host")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub)
    monkeypatch.setattr("datasets.hub.hub_answers", lambda: True)
    monkeypatch.setattr(zeroshot, "fetch", fetch)
    return asked


@pytest.mark.parametrize("case", PARQUET)
def test_the_prompts_of_the_hubs_files(tmp_path, case):
    name, row, example = PARQUET[case]
    write_parquet(tmp_path / name, [row])
    assert read(case.partition(",")[0], tmp_path) == [example]


@pytest.mark.parametrize("task", TEXT)
def test_the_prompts_of_text_files(tmp_path, task):
    name, content, example = TEXT[task]
    write_text(tmp_path, name, content * 2)
    assert read(task, str(tmp_path)) == [example] * 2


def test_the_prompts_of_piqas_archive(tmp_path):
    write_piqa(tmp_path)
    assert read("piqa", tmp_path) == [
        Example(("Question: open a jar\nAnswer:",) * 2, (" sing", " turn the lid"), 1),
        Example(("Question: sleep?\nAnswer:",) * 2, (" lie down", " run\u2028fast"), 0),
    ]


def test_rte_is_read_from_the_unedited_file_alone(tmp_path):
    """The tab-separated copy has other quotation marks: what is installed must not choose between the two."""
    write_text(tmp_path, "rte_dev.tsv", "sentence1\tsentence2\tlabel\tidx\nedited\tedited\t1\t0\n")
    write_parquet(tmp_path / "text/zeroshot/rte_validation.parquet", [PARQUET["rte"][1]])
    assert read("rte", tmp_path) == [PARQUET["rte"][2]]


def test_a_published_file_goes_before_a_copy(tmp_path):
    for task in ("boolq", "hellaswag", "winogrande", "arc_easy", "openbookqa"):
        write_text(tmp_path, TEXT[task][0], TEXT[task][1])
        name, row, example = PARQUET[task]
        write_parquet(tmp_path / name, [row, row])
        assert read(task, tmp_path) == [example] * 2
    write_text(tmp_path, TEXT["piqa"][0], TEXT["piqa"][1])
    write_piqa(tmp_path)
    assert len(read("piqa", tmp_path)) == 2


def test_without_pyarrow_a_parquet_file_is_refused_not_passed_over(tmp_path, monkeypatch):
    name, row, _ = PARQUET["boolq"]
    write_parquet(tmp_path / name, [row])
    write_text(tmp_path, TEXT["boolq"][0], TEXT["boolq"][1])
    for module in [m for m in sys.modules if m.partition(".")[0] == "pyarrow"]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=re.escape("pip install .[llm]")):
        read("boolq", tmp_path)


def test_unknown_tasks_are_named_with_the_known(tmp_path):
    with pytest.raises(
        ValueError, match="unknown task mmlu; choose from boolq, rte, hellaswag, winogrande, arc_easy"
    ) as error:
        read("mmlu", tmp_path)
    assert not isinstance(error.value, CorruptData)


@pytest.mark.parametrize("task", TASKS)
def test_missing_files_are_said_with_their_places(tmp_path, task, no_hub):
    with pytest.raises(MissingData) as error:
        read(task, tmp_path)
    places = [f"{tmp_path}/{name}" for case, (name, *_) in PARQUET.items() if case.partition(",")[0] == task]
    copies = {task: name for task, (name, *_) in TEXT.items()} | {"rte": "rte_validation.parquet"}
    for part in [*places, f"{tmp_path}/text/zeroshot/{copies[task]}", "no route", "RUNNER_DATA"]:
        assert part in str(error.value)
    assert len(no_hub) == 1


@pytest.mark.parametrize("task", [task for task in TASKS if task != "piqa"])
def test_what_is_missing_comes_from_the_hub(tmp_path, task, monkeypatch):
    name, row, example = PARQUET[task]
    path = write_parquet(tmp_path / "cache" / name, [row])
    asked = []

    def hub(repository: str, name: str, repo_type: str, local_files_only: bool = False) -> str:
        asked.append((f"{repository}/{name}", repo_type))
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub)
    assert read(task, tmp_path / "data") == [example]
    assert (asked[0][0].endswith(name), asked[0][1]) == (True, "dataset")


def test_piqa_comes_from_its_authors(tmp_path, monkeypatch):
    content = write_piqa(tmp_path / "server").read_bytes()

    def fetch(url: str, target: Path, sha256: str) -> Path:
        assert url.endswith("physicaliqa-train-dev.zip")
        assert len(sha256) == len(hashlib.sha256().hexdigest())
        target.parent.mkdir(parents=True)
        target.write_bytes(content)
        return target

    monkeypatch.setattr(zeroshot, "fetch", fetch)
    assert len(read("piqa", tmp_path / "data")) == 2
    assert (tmp_path / "data/piqa/physicaliqa-train-dev.zip").is_file()


@pytest.mark.parametrize(
    ("task", "content"),
    [
        ("boolq", '{"query": "Passage: Wat'),
        ("boolq", '{"query": "Passage: a\\nQuestion: b?", "choices": ["no", "yes"]}'),
        ("boolq", '{"query": "Passage: a\\nQuestion: b?", "choices": ["no", "yes"], "gold": 2}'),
        ("boolq", '["no"]'),
        ("hellaswag", "Roof: A man. he\n3\nis.\nwraps.\nis.\n"),
        ("hellaswag", "Roof: A man. he\nis.\nwraps.\nis.\nstarts.\n0\n"),
        ("winogrande", '{"context_options": ["so Ann", "so Bob", "so Eve"], "continuation": "ran.", "gold": 1}'),
        ("winogrande", '{"context_options": ["so Ann", "so Bob"], "continuation": " ", "gold": 1}'),
        ("arc_easy", '{"query": "Question: a", "choices": ["b", "c"], "gold": 4}'),
        ("openbookqa", '{"query": "a", "choices": null, "gold": 4}'),
        ("piqa", '{"query": "a", "choices": ["b", "c"], "gold": "0"}'),
    ],
)
def test_damaged_text_files_are_named(tmp_path, task, content):
    path = write_text(tmp_path, TEXT[task][0], content)
    with pytest.raises(CorruptData, match=re.escape(str(path))):
        read(task, tmp_path)


def test_damaged_archives_are_named(tmp_path):
    path = write_text(tmp_path, TEXT["hellaswag"][0], TEXT["hellaswag"][1] * 1000)
    for damaged in (b"<html>404</html>", path.read_bytes()[:-20]):
        path.write_bytes(damaged)
        with pytest.raises(CorruptData, match=re.escape(str(path))):
            read("hellaswag", tmp_path)
    for labels in ("1\n", "1\n2\n", "one\ntwo\n"):
        path = write_piqa(tmp_path, labels)
        with pytest.raises(CorruptData, match=re.escape(str(path))):
            read("piqa", tmp_path)
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(CorruptData, match=re.escape(str(path))):
        read("piqa", tmp_path)


@pytest.mark.parametrize(
    ("case", "wrong"),
    [
        ("boolq", {"passage": "no question"}),
        ("rte", {"label": -1}),  # the test split's
        ("hellaswag", {"label": ""}),
        ("winogrande", {"sentence": "no blank"}),
        ("winogrande", {"answer": ""}),
        ("arc_easy", {"answerKey": "E"}),
        ("openbookqa", {"question_stem": "a", "answerKey": None}),
    ],
)
def test_damaged_parquet_files_are_named(tmp_path, case, wrong):
    name, row, _ = PARQUET[case]
    path = write_parquet(tmp_path / name, [wrong if case == "boolq" else row | wrong])
    with pytest.raises(CorruptData, match=re.escape(str(path))):
        read(case, tmp_path)
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(CorruptData, match=re.escape(str(path))):
        read(case, tmp_path)


FIRST = {  # of the first question: the end of the context, the first choices, the right one
    "boolq": ("\nQuestion: does ethanol take more energy make that produces?\nAnswer:", (" no", " yes"), 0),
    "rte": ("\nQuestion: Christopher Reeve had an accident. True or False?\nAnswer:", (" True", " False"), 1),
    "hellaswag": (": A man is sitting on a roof. He", (" is using wrap to wrap a pair of skis.",), 3),
    "winogrande": ("than Maria so Sarah", (" always got the easier cases.",) * 2, 1),
    "arc_easy": ("most food webs?\nAnswer:", (" Sunlight is the source of energy for nearly all ecosystems.",), 0),
    "arc_challenge": ("in rotation?\nAnswer:", (" Planetary density will decrease.",), 2),
    "openbookqa": ("the best way to save money is to", (" make more phone calls", " quit eating lunch out"), 1),
    "piqa": ("it's new occupants?\nAnswer:", (" Provide the guinea pig with a cage full",), 0),
}
CHOICES = {"hellaswag": {4}, "arc_easy": {3, 4, 5}, "arc_challenge": {3, 4, 5}, "openbookqa": {4}}


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ("Jump: A boy runs. He jumps! the boy", "Jump: A boy runs. He jumps! The boy"),
        ('Talk: She says "stop." then a Man', 'Talk: She says "stop." Then a man'),  # str.capitalize, as in the harness
        ("Race: Who wins? 5 the guy", "Race: Who wins? 5 the guy"),
        ("Home: How to sweep. Take a broom. Hold it.", "Home: How to sweep. Take a broom. Hold it."),
        ("Home: How to sweep. Take a Broom", "Home: How to sweep. Take a Broom"),
    ],
)
def test_the_unfinished_sentence_of_hellaswags_archive_is_capitalised(tmp_path, context, expected):
    write_text(tmp_path, TEXT["hellaswag"][0], f"{context}\n0\na\nb\nc\nd\n")
    assert read("hellaswag", tmp_path)[0].contexts == (expected,) * 4


@pytest.mark.parametrize("task", TASKS)
def test_published_data_sets(runner_data, task, no_hub):
    if task == "rte":
        pytest.importorskip("pyarrow", reason="parquet files need pyarrow: pip install '.[llm]'")
    try:
        examples = read(task, runner_data)
    except MissingData as error:
        pytest.skip(str(error))
    assert len(examples) == COUNTS[task]

    end, choices, gold = FIRST[task]
    first = examples[0]
    assert first.contexts[0].endswith(end)
    assert all(found.startswith(choice) for found, choice in zip(first.choices, choices, strict=False))
    assert first.gold == gold

    assert {len(e.choices) for e in examples} <= CHOICES.get(task, {2})
    answer = "" if task in ("hellaswag", "winogrande", "openbookqa") else "\nAnswer:"
    assert all(c.endswith(answer) and c == c.strip() and "Passage: " not in c[:9] for e in examples for c in e.contexts)
    assert all((len(set(e.contexts)) == 1) == (task != "winogrande") for e in examples)
    assert all((len(set(e.choices)) == 1) == (task == "winogrande") for e in examples)
    assert min(sum(e.gold == i for e in examples) for i in range(2)) > 0.15 * len(examples)
