"""Zero-shot prompts and scores, against lm-evaluation-harness (extra `eval`), which runs in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from datasets.text.zeroshot import TASKS, Example, read
from methods.esparse.zeroshot import evaluate, log_likelihoods, request
from tests.datasets.text.test_zeroshot import PARQUET

ROOT = Path(__file__).resolve().parents[3]
LOCAL = Path(os.environ.get("RUNNER_DATA", "data"))
QUESTIONS = 8  # of each task
PIQA_ROW = {"goal": "Dry a cup.", "sol1": "Use a towel.", "sol2": "Use water.", "label": 0}
PIQA_EXAMPLE = Example(("Question: Dry a cup.\nAnswer:",) * 2, (" Use a towel.", " Use water."), 0)
PUBLISHED = {  # the harness's task: a row of its data on the hub, what this project asks
    **{name: PARQUET[name][1:] for name in ("rte", "winogrande", "arc_easy", "arc_challenge", "openbookqa")},
    "hellaswag": PARQUET["hellaswag"][1:],
    "boolq": PARQUET["boolq, SuperGLUE"][1:],
    "piqa": (PIQA_ROW, PIQA_EXAMPLE),
}

pytestmark = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed")


def save_model(folder: Path, texts: list[str]) -> torch.nn.Module:
    """Save a tiny random LLaMA with a byte-level tokenizer, whose tokens reach over the ends of words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=["<end>"])
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=1024,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    return model


def harness(folder: Path, tasks: list[dict]) -> list[dict]:
    """Return what scripts/harness_scores.py finds."""
    (folder / "requests.json").write_text(json.dumps({"model": str(folder / "model"), "tasks": tasks}))
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "cache")}
    script = ROOT / "scripts" / "harness_scores.py"
    command = [sys.executable, "-P", str(script), "requests.json", "scores.json"]
    done = subprocess.run(command, cwd=folder, env=os.environ | offline, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "scores.json").read_text())


def write_rows(file: Path, rows: list[dict]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def as_task(name: str, examples: list[Example], file: Path) -> dict:
    """The examples as a task of the harness that has no data of its own."""
    choices_follow = len(set(examples[0].contexts)) == 1  # else each choice is a context (WinoGrande)
    rows = []
    for e in examples:
        choices = [choice.removeprefix(" ") for choice in e.choices]
        rows.append({"context": e.contexts[0], "contexts": e.contexts, "choices": choices, "gold": e.gold})
        rows[-1]["choice"] = choices[0]
    fields = ("context", "choices", "gold") if choices_follow else ("gold", "contexts", "choice")
    metrics = [{"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")]
    return {
        "task": f"own_{name}",
        "rows": write_rows(file, rows),
        "output_type": "multiple_choice",
        **dict(zip(("doc_to_text", "doc_to_choice", "doc_to_target"), fields, strict=True)),
        "metric_list": metrics if choices_follow else metrics[:1],
    }


def test_prompts_are_those_of_the_harness(tmp_path):
    assert PUBLISHED.keys() == TASKS.keys()
    save_model(tmp_path / "model", [json.dumps(row) for row, _ in PUBLISHED.values()])
    tasks = [
        {"task": name, "rows": write_rows(tmp_path / f"{name}.jsonl", [row])} for name, (row, _) in PUBLISHED.items()
    ]
    for (name, (_, example)), found in zip(PUBLISHED.items(), harness(tmp_path, tasks), strict=True):
        asked = [(context, continuation) for context, continuation, _ in found["samples"][0]]
        assert asked == list(zip(example.contexts, example.choices, strict=True)), name


def test_scores_are_those_of_the_harness(tmp_path):
    examples = {name: read(name, LOCAL)[:QUESTIONS] for name in TASKS if has_data(name)}
    if not examples:
        pytest.skip("RUNNER_DATA has no zero-shot task")
    texts = [text for found in examples.values() for e in found for text in (*e.contexts, *e.choices)]
    model = save_model(tmp_path / "model", texts)
    from transformers import AutoTokenizer

    encode = AutoTokenizer.from_pretrained(tmp_path / "model").encode
    tasks = [as_task(name, found, tmp_path / f"{name}.jsonl") for name, found in examples.items()]
    for (name, own), found in zip(examples.items(), harness(tmp_path, tasks), strict=True):
        pairs = [(c, choice) for e in own for c, choice in zip(e.contexts, e.choices, strict=True)]
        scores = log_likelihoods(model, [request(encode, *pair) for pair in pairs], 2048)
        theirs = [score for sample in found["samples"] for *_, score in sample]
        assert list(scores) == pytest.approx(theirs, rel=1e-4, abs=1e-3), name
        ours = evaluate(model, encode, own)
        assert ours["acc"] == pytest.approx(found["acc"]), name
        assert ours["acc_norm"] == pytest.approx(found.get("acc_norm", ours["acc_norm"])), name


def has_data(name: str) -> bool:
    """Whether the questions of a task lie in the data folder; nothing is downloaded."""
    stems = {"openbookqa": "openbook_qa", "hellaswag": "hellaswag_val_full", "rte": "rte_validation"}
    return any((LOCAL / "text" / "zeroshot").glob(f"{stems.get(name, name)}.*"))
