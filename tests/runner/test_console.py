"""Whoever reads the output may leave before its end."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys

import pytest

from runner.console import Handler, exit_on_broken_pipe
from tests.runner.conftest import ROOT


@pytest.mark.parametrize(
    "command",
    [["runner", "--help"], ["runner.table", "experiment=graphnorm/table1", "dataset=atlas"]],
    ids=lambda command: command[0],
)
def test_a_command_ends_quietly(command) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", *command], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 128 + signal.SIGPIPE


def test_another_pipe_that_breaks_is_an_error() -> None:
    with pytest.raises(BrokenPipeError), exit_on_broken_pipe():
        raise BrokenPipeError


@pytest.mark.parametrize(("arguments", "complaint"), [((1,), ""), (("one",), "%d format")])
def test_a_log_line_is_dropped_quietly_unless_it_is_wrong(capsys, arguments, complaint) -> None:
    read, write = os.pipe()
    os.close(read)
    handler = Handler(os.fdopen(write, "w"))
    handler.handle(logging.LogRecord("name", logging.INFO, "path", 1, "%d", arguments, None))
    printed = capsys.readouterr().err
    assert complaint in printed
    assert bool(printed) == bool(complaint)
