"""Score multiple-choice questions by lm-evaluation-harness, to check this project's own zero-shot scores.

    python -P scripts/harness_scores.py REQUESTS.json SCORES.json

The harness imports the public package `datasets`, whose name the project's own package takes. So this program imports
nothing of the project and runs without it on the path: with -P, from another folder. It needs the extra `eval`.

REQUESTS.json holds `model`, a folder in the transformers layout, and `tasks`, a list of dictionaries in the form of the
harness's task files, with `rows`, a file of JSON lines in place of data on the hub. One without `output_type` is laid
over the harness's own task of that name. SCORES.json gets for each task, in the same order, `acc`, `acc_norm` where the
task has it, and `samples`: for each question a list of [context, continuation, log-likelihood].
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def task_config(given: dict[str, Any]) -> dict[str, Any]:
    """Return the harness's config of a task that reads a local file."""
    local = {
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"test": given["rows"]}},
        "training_split": None,
        "validation_split": None,
        "fewshot_split": None,
        "test_split": "test",
    }
    config = {name: value for name, value in given.items() if name != "rows"} | local
    if "output_type" in given:  # a task of our own
        return config
    return {"group": "local", "task": [config]}  # only members of a group are laid over a registered task


def sample(record: dict[str, Any]) -> list[list[Any]]:
    """Return context, continuation and log-likelihood of each choice of a question."""
    arguments = record["arguments"]
    pairs = [list(pair.values()) for pair in arguments.values()] if isinstance(arguments, dict) else arguments
    return [[*pair[:2], float(answer[0])] for pair, answer in zip(pairs, record["filtered_resps"], strict=True)]


def main() -> None:
    """Run the command line."""
    if len(sys.argv) != 3:
        sys.exit("usage: python -P scripts/harness_scores.py REQUESTS.json SCORES.json")
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        sys.exit(f"lm-evaluation-harness cannot be imported ({error}): pip install '.[eval]'")
    try:
        requests = json.loads(Path(sys.argv[1]).read_text())
    except (OSError, ValueError) as error:
        sys.exit(f"{sys.argv[1]} is no file of requests: {error}")
    model = HFLM(pretrained=requests["model"], device="cpu", dtype="float32", batch_size=4)
    scores = []
    for given in requests["tasks"]:
        found = simple_evaluate(model=model, tasks=[task_config(given)], num_fewshot=0, bootstrap_iters=0)
        (name,) = found["samples"]
        metrics = found["results"][name]
        accuracies = {
            metric: metrics[f"{metric},none"] for metric in ("acc", "acc_norm") if f"{metric},none" in metrics
        }
        records = sorted(found["samples"][name], key=lambda record: record["doc_id"])
        scores.append({**accuracies, "samples": [sample(record) for record in records]})
    Path(sys.argv[2]).write_text(json.dumps(scores))


if __name__ == "__main__":
    main()
