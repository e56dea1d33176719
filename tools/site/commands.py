"""A page for each command, from click's own help and from what the command printed in `docs/recorded/`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click

from edgekit.cli.main import COMMANDS, cli

RECORDED = Path(__file__).resolve().parents[2] / "docs" / "recorded"


def pages() -> dict[str, str]:
    """Return the Markdown of every command's page by its path below `docs/`."""
    context = click.Context(cli, info_name="edgekit")
    found = {}
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        found[f"reference/cli/{name}.md"] = "\n".join(_page(command, context, name, 1))
    found["reference/cli/index.md"] = _index()
    return found


def _index() -> str:
    rows = [f"| [`edgekit {name}`]({name}.md) | {_cell(line)} |" for name, line in COMMANDS.items()]
    return "\n".join(
        [
            "# Commands",
            "",
            "`edgekit COMMAND --help` prints the same in a terminal. Exit codes: 0 success, 1 a check failed, 2 bad input, 130 interrupted.",
            "",
            "| command | what it does |",
            "|---|---|",
            *rows,
            "",
            "`edgekit --debug COMMAND …` shows the traceback of an error.",
            "",
        ]
    )


def _page(command: click.Command, parent: click.Context, name: str, level: int) -> Iterator[str]:
    """Yield the lines of a command, then those of its sub-commands."""
    context = click.Context(command, parent=parent, info_name=name)
    yield f"{'#' * level} {context.command_path}"
    yield ""
    yield from _help(command.help or "")
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield from ("```text", usage, "```", "")
    yield from _options(command, context)
    recorded = RECORDED / f"{context.command_path.replace('edgekit ', '').replace(' ', '-')}.txt"
    if recorded.is_file():
        yield from (f"{'#' * (level + 1)} What comes out", "", "```text", recorded.read_text().rstrip(), "```", "")
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None
            yield from _page(found, context, child, level + 1)


def _help(text: str) -> Iterator[str]:
    """Yield a help text as Markdown: paragraphs, and as code the lines that click leaves as they are (after `\\b`)."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        lines = paragraph.splitlines()
        if lines[0].strip() != "\b":
            yield from (_escaped(" ".join(line.strip() for line in lines)), "")
            continue
        yield from (_escaped(line) for line in lines[1:] if not line.startswith("  "))
        yield from ("", "```sh", *(line[2:] for line in lines[1:] if line.startswith("  ")), "```", "")


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    options = [option for option in command.get_params(context) if isinstance(option, click.Option)]
    records = [record for option in options if (record := option.get_help_record(context))]
    if not records:
        return
    yield "| option | |"
    yield "|---|---|"
    for names, text in records:
        yield f"| {_names(names)} | {_cell(text)} |"
    yield ""


def _names(text: str) -> str:
    """Return an option's names as code, and the values to choose from after them, where a line may be broken."""
    names, _, choices = text.removesuffix("]").partition(" [") if re.search(r" \[.*\|.*\]$", text) else (text, "", "")
    return " ".join([f"`{names}`".replace("|", "\\|"), *(f"`{choice}`" for choice in choices.split("|") if choice)])


def _cell(text: str) -> str:
    return _escaped(" ".join(text.split())).replace("|", "\\|")


def _escaped(text: str) -> str:
    """Return text whose brackets, stars and underscores Markdown leaves alone; what is between backticks stays code."""
    parts = text.split("`")
    return "`".join(part if i % 2 else re.sub(r"([\[\]*_<>])", r"\\\1", part) for i, part in enumerate(parts))
