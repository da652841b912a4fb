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


def test_a_sweep_prints_warnings_and_progress_only() -> None:
    import logging

    from runner.console import OneLineARun

    def printed(level: int, **extra: bool) -> bool:
        record = logging.LogRecord("name", level, "file", 1, "text", None, None)
        record.__dict__ |= extra
        return OneLineARun().filter(record)

    assert not printed(logging.INFO)
    assert not printed(logging.INFO, underway=False)
    assert printed(logging.INFO, underway=True)
    assert printed(logging.WARNING)


def test_lines_appear_above_a_bar() -> None:
    import io
    import logging

    import rich
    from rich.progress import Progress

    from runner.console import Handler

    console, stream = rich.get_console(), io.StringIO()
    file, console.file = console.file, stream
    try:
        handler = Handler(io.StringIO())
        with Progress(console=console):
            handler.emit(logging.LogRecord("name", logging.INFO, "file", 1, "[bold]a line", None, None))
        handler.emit(logging.LogRecord("name", logging.INFO, "file", 1, "another", None, None))
    finally:
        console.file = file
    assert "[bold]a line" in stream.getvalue()
    assert handler.stream.getvalue() == "another\n"
