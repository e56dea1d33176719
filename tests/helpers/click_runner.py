"""Commands called in the test's own process, with stdout and stderr apart in every version of click."""

from __future__ import annotations

import sys
from inspect import signature
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result


def invoke(command: click.Command, arguments: list[str]) -> Result:
    """Run a command; its exceptions are the caller's."""
    # Before click 8.2, stdout holds stderr too unless it is asked not to; since then, there is nothing to ask.
    options: dict[str, Any] = {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}
    return CliRunner(**options).invoke(command, arguments, catch_exceptions=False, standalone_mode=False)


def as_command(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """Run `edgekit ARGUMENTS` up to its exit; the exit code, and what it printed on standard error."""
    from edgekit.cli.main import main

    monkeypatch.setattr(sys, "argv", ["edgekit", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), capsys.readouterr().err
