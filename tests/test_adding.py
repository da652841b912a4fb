"""The example of docs/adding.md: its files are written into a copy of the project, and its commands are run there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.test_docs import EXAMPLES, ROOT, code_lines

FILE = re.compile(r"^`([\w/.]+)`[^\n]*:\n\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)


LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "*_cache", "__pycache__", "build", "outputs", "wandb")


@pytest.mark.slow
def test_the_example_of_adding_things_runs(tmp_path) -> None:
    shutil.copytree(ROOT, tmp_path, ignore=LEFT_OUT, dirs_exist_ok=True)
    page = EXAMPLES.read_text()
    files = FILE.findall(page)
    assert len(files) == 10
    for name, text in files:
        assert not (tmp_path / name).exists(), name
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    commands = [line for line in code_lines(page) if line.startswith("python -m ")]
    assert len(commands) == 6
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "WANDB_MODE": "disabled", "RUNNER_DATA": str(tmp_path)}
    for command in commands:
        words = [sys.executable, *shlex.split(command, comments=True)[1:]]
        if words[2] in ("runner", "runner.table"):
            words.append("schedule.max_epochs=1")
        if "experiment=focal/table1" in words:
            words.append("seed=0")
        if words[2] == "pytest":
            words += ["-k", "focal or gamma or one_way or paper or short or what_it_is"]  # not all other configs
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert len(re.findall(r"\d\d?\.\d", done.stdout)) >= 4, done.stdout
