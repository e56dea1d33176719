"""`edgekit completion`: tab-completion for bash, zsh and fish (click's own scripts)."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from edgekit.terminal import echo_file


@click.command(name="completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the tab-completion script for a shell.

    \b
    For example, in ~/.bashrc:
      eval "$(edgekit completion bash)"
    """
    from edgekit.cli.main import cli

    completion = get_completion_class(shell)
    assert completion is not None
    echo_file(completion(cli, {}, "edgekit", "_EDGEKIT_COMPLETE").source() + "\n")
