"""The tree as a whole: who imports whom, what each choice of conf/ says of itself, libraries beside our `datasets`."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from runner.config.address import resolved
from runner.config.checks import check_tasks
from runner.config.compose import compose
from runner.config.help import choices
from runner.config.place import CONF
from runner.config.targets import target_of

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


def modules(*trees: str) -> dict[str, Path]:
    """Return the files of the project's modules by their full names."""
    files = [path.relative_to(ROOT) for tree in trees for path in sorted((ROOT / tree).rglob("*.py"))]
    return {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def import_graph() -> dict[str, set[str]]:
    """Return the modules that each module imports: everywhere in it, so also in functions and for type checking."""
    trees = ("runner", "methods", "datasets", "scripts")
    names = {path: name for name, path in modules(*trees).items()}
    graph: dict[str, set[str]] = {name: set() for name in names.values()}
    for tree in trees:
        for path, imported in imports(tree):
            target = imported if imported in graph else imported.rpartition(".")[0]
            if target in graph and target != names[path]:
                graph[names[path]].add(target)
    return graph


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the sets of modules that import each other, directly or by others."""
    import networkx

    return [c for c in networkx.strongly_connected_components(networkx.DiGraph(graph)) if len(c) > 1]


def test_no_module_imports_itself_by_way_of_others():
    assert not circles(import_graph())


def test_circles_are_found_in_functions_too():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]
    assert "runner.main" in import_graph()["runner.cli"]  # imported in a function


LAYERS = ("runner.config", "runner.execution", "runner.main", "runner.sweeps", "runner.cli")


def layer_of(module: str) -> int:
    """Return the index of a module's layer; -1 for modules of no layer."""
    return next((i for i, layer in enumerate(LAYERS) if module == layer or module.startswith(f"{layer}.")), -1)


def test_layers_of_the_runner_import_downwards_only():
    edges = [(a, b) for a, targets in import_graph().items() for b in targets if layer_of(a) >= 0 and layer_of(b) >= 0]
    assert edges
    assert not [(a, b) for a, b in edges if layer_of(b) > layer_of(a)]


def test_results_need_neither_launchers_nor_the_command_line():
    lower = ("runner.config.", "runner.execution.", "runner.results.", "runner.files", "runner.errors")
    graph = import_graph()
    imported = {b for a, targets in graph.items() if a.startswith("runner.results") for b in targets}
    allowed = {"runner.sweeps.run_status", "runner.results"}
    assert not [b for b in imported if not b.startswith(lower) and b not in allowed]


def test_results_types_import_no_renderer():
    for name in ("runner.results.table_model", "runner.results.figure_model"):
        assert not [b for b in import_graph()[name] if "render" in b or "draw_" in b]


def chain(file: Path) -> int:
    """Return how many files deep the defaults of a config file of conf/ reach within its group, itself included."""
    defaults = OmegaConf.to_container(OmegaConf.load(file)).get("defaults", [])
    depths = [0]
    for entry in defaults:
        target = entry if isinstance(entry, str) else next(iter(entry.items()))
        if not isinstance(target, str):
            key, option = target
            group = key.removeprefix("override ").partition("@")[0].lstrip("/")
            if key.startswith("override ") or not isinstance(option, str) or (CONF / group) not in file.parents:
                continue
            target = f"/{group}/{option}"
        target = target.partition("@")[0]
        if target == "_self_":
            continue
        path = CONF / f"{target.lstrip('/')}.yaml" if target.startswith("/") else file.parent / f"{target}.yaml"
        if path.exists():
            depths.append(chain(path))
    return 1 + max(depths)


CONFIGS = sorted(path for group in GROUPS for path in (CONF / group).rglob("*.yaml"))


def test_defaults_are_at_most_three_files_deep():
    assert not [str(path.relative_to(CONF)) for path in CONFIGS if chain(path) > 3]


def test_files_are_short():
    tracked = list(modules("runner", "methods", "datasets", "scripts").values())
    assert not [str(path) for path in tracked if len((ROOT / path).read_text().splitlines()) > 400]


@pytest.mark.parametrize("group", GROUPS)
def test_every_choice_says_what_it_is(group):
    assert not [name for name, line in choices(group).items() if not line]


@pytest.mark.parametrize("method", choices("method"))
def test_a_method_alone_is_a_whole_run(method):
    cfg = compose([f"method={method}"])
    resolved({key: value for key, value in cfg.items() if key != "hydra"})
    check_tasks(cfg)
    assert target_of("method", method) == cfg.method._target_


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
