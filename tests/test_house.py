"""The tree as a whole: who imports whom, what each choice of conf/ says of itself, libraries beside our `datasets`."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.address import resolved
from runner.compose import CONF, compose
from runner.contracts import check_tasks
from runner.help import choices

ROOT = CONF.parent
PAPERS = sorted({name.partition("/")[0] for name in choices("method")})
GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")


def imports(tree: str) -> Iterator[tuple[Path, str]]:
    """Every Python file below a folder of the project, with the full name of each module that it imports."""
    for path in sorted((ROOT / tree).rglob("*.py")):
        relative = path.relative_to(ROOT)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((relative, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                parents = relative.parts[: len(relative.parts) - node.level] if node.level else ()
                module = ".".join([*parents, *filter(None, [node.module])])
                yield from ((relative, f"{module}.{alias.name}") for alias in node.names)


def paper_of(parts: tuple[str, ...]) -> str | None:
    """The paper that a file or module below methods/ belongs to, None for what papers share."""
    return parts[1] if len(parts) > 1 and parts[0] == "methods" and parts[1] in PAPERS else None


@pytest.mark.parametrize(
    ("tree", "forbidden"),
    [("methods", {"runner"}), ("datasets", {"runner", "methods"}), ("runner", {"methods", "datasets"})],
)
def test_arrows_point_one_way(tree, forbidden):
    assert not [f"{path}: {module}" for path, module in imports(tree) if module.partition(".")[0] in forbidden]


def test_no_paper_imports_another_nor_shared_code_a_paper():
    crossing = []
    for path, module in imports("methods"):
        imported = paper_of(tuple(module.split(".")))
        if imported and imported != paper_of(path.parts):
            crossing.append(f"{path}: {module}")
    assert not crossing


@pytest.mark.parametrize("group", GROUPS)
def test_every_choice_says_what_it_is(group):
    assert not [name for name, line in choices(group).items() if not line]


@pytest.mark.parametrize("method", choices("method"))
def test_a_method_alone_is_a_whole_run(method):
    cfg = compose([f"method={method}"])
    resolved({key: value for key, value in cfg.items() if key != "hydra"})
    check_tasks(cfg)


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_experiments_compose(experiment):
    check_tasks(compose([f"experiment={experiment}"]))


LIBRARIES = """
import sys
from pathlib import Path

import pytorch_lightning
import torch
import torch_geometric.loader
import transformers.trainer  # asks whether the public `datasets` is there
from torch_geometric.nn import GCNConv
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import datasets

assert Path(datasets.__file__).parent == Path.cwd() / "datasets", datasets.__file__
config = LlamaConfig(
    vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1
)
model = LlamaForCausalLM(config).eval()
model.save_pretrained(sys.argv[1])
tokens = torch.tensor([[1, 2, 3]])
assert torch.equal(AutoModelForCausalLM.from_pretrained(sys.argv[1])(tokens).logits, model(tokens).logits)
GCNConv(2, 2)(torch.ones(2, 2), torch.tensor([[0], [1]]))
pytorch_lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
"""


@pytest.mark.slow
def test_libraries_work_beside_our_datasets_package(tmp_path):
    command = [sys.executable, "-c", LIBRARIES, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
