"""`edgekit`: find the command, load only what it needs, and turn errors into one line and an exit code."""

from __future__ import annotations

import errno
import importlib
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import click

from edgekit import __version__, stopping
from edgekit.children import ERROR_FILE, end_with_parent
from edgekit.errors import EdgekitError, one_line
from edgekit.files import prepare_home
from edgekit.terminal import abandon, echo, prepare_streams

# name -> one line for `edgekit --help`; the command itself is `edgekit.cli.NAME:command`, imported when it is called.
COMMANDS = {
    "init": "Write a commented recipe for a folder of images.",
    "augment": "Look at a recipe's augmentation before training.",
    "train": "Pretrain, fine-tune and distill from a recipe; resumes after an interruption.",
    "evaluate": "Score a run's encoder, teacher and student on its test set.",
    "transfer": "Score a run's encoder on other labeled folders of images.",
    "label": "Choose which unlabeled images to label first, and label them in a browser.",
    "embed": "Write the features of a folder's images, a map of them, and the outliers.",
    "ablate": "Train a recipe with several augmentations or values, and compare them.",
    "search": "Find the student that fits a budget on a device, and train it.",
    "export": "Convert a model, quantize it, verify it, and write it as a bundle.",
    "bench": "Measure the latency of a bundle on this machine.",
    "predict": "Classify images with a bundle.",
    "gallery": "Recognize classes by a few images of each, without training.",
    "doctor": "Show what this machine can do, and check which variants of a bundle run on it.",
    "compare": "Compare two measurements; exit 1 if a condition fails.",
    "report": "Write a run's results as one self-contained HTML page.",
    "schema": "Print the JSON schema of a recipe, bundle or result.",
    "completion": "Print the tab-completion script for a shell.",
}

BROKEN_PIPE = 141  # the exit code that a shell reports for a program that SIGPIPE ended


class Lazy(click.Group):
    """A group that lists its commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"edgekit.cli.{name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        from edgekit.errors import near

        if args and args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise EdgekitError(f"no such command {args[0]!r}", near(args[0], COMMANDS) or "see edgekit --help")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            if error.ctx is None and command is not None:  # click's parser does not name the command
                error.ctx = click.Context(command, ctx, ctx.invoked_subcommand)
            raise


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="edgekit")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """From unlabeled images to a small, fast, proven model on your device.

    \b
    For example:
      edgekit init photos/ > recipe.yaml
      edgekit train recipe.yaml
      edgekit export runs/photos --target onnx
      edgekit bench runs/photos/export
    """
    if debug:
        os.environ["EDGEKIT_DEBUG"] = "1"  # child processes of bench and export show their tracebacks too


def main() -> None:
    """Run the command line. Exit codes: 0 success, 1 a check failed, 2 bad input, 70 a bug, 130 Ctrl-C, 141 a closed pipe,
    143 SIGTERM.
    """
    end_with_parent()  # if this is one of several training processes
    prepare_streams()
    with stopping.termination_as_interrupt():
        code = _run()
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader closed the pipe, which is not an error
        abandon(sys.stdout)
        code = code or BROKEN_PIPE
    except OSError as error:
        abandon(sys.stdout)
        if code == 0:
            code = 2
            _fail(f"standard output: {error.strerror or error} (free some space, or write to another disk)")
    try:
        sys.stderr.flush()
    except OSError:
        abandon(sys.stderr)
    sys.exit(code)


def _run() -> int:
    """Run the command, print its error if there is one, and return the exit code."""
    output = sys.stdout
    try:
        prepare_home()
        code = cli.main(prog_name="edgekit", standalone_mode=False)
        code = code if isinstance(code, int) else 0
    except (KeyboardInterrupt, click.Abort):
        if os.environ.get("WORLD_SIZE", "1") == "1":  # otherwise the process that started this one prints it
            _print_error("interrupted")
        code = stopping.exit_code()
    except click.ClickException as error:
        from edgekit.cli.usage import usage_error

        if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # click 8.2's, for `edgekit` alone
            error.show()
        else:
            _fail(str(usage_error(error)))
        code = 2
    except EdgekitError as error:
        _raise_in_debug()
        _wait_for_first_process()
        _fail(str(error))
        code = error.exit_code
    except SystemExit as exit_request:
        # Click exits this way when the reader closed the pipe: it has replaced the streams.
        code = BROKEN_PIPE if sys.stdout is not output else int(exit_request.code or 0)
    except OSError as error:
        _raise_in_debug()
        # For a copy, the second name is the file that was written.
        name = error.filename2 if error.filename2 and error.errno in (errno.ENOSPC, errno.EDQUOT) else error.filename
        where = f"{name}: " if name else "" if _is_writable(sys.stdout) else "standard output: "
        _fail(f"{where}{error.strerror or error} (check permissions and free space)")
        code = 2
    except Exception as error:
        _raise_in_debug()
        code = _unexpected(error)
    return code


def _unexpected(error: Exception) -> int:
    """Report a missing package, or a bug; return the exit code."""
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if package:
        from edgekit.api.extras import EXTRAS, missing

        if package in EXTRAS:
            _fail(str(missing(package)))
            return 2
    _wait_for_first_process()
    text = one_line(str(error)) or "no message"
    _print_error(
        f"internal error: {type(error).__name__}: {text} (edgekit --debug … shows the traceback; please report it)"
    )
    return 70


def _fail(text: str) -> None:
    """Print an error that a user can act on, or write it to the file that the parent edgekit process reads."""
    if path := os.environ.get(ERROR_FILE):
        with suppress(OSError):
            Path(path).write_text(text, encoding="utf-8", errors="replace")
            return
    _print_error(f"error: {text}")


def _print_error(line: str) -> None:
    """Print a line on standard error, if it is open."""
    try:
        echo(line, err=True)
    except OSError:
        abandon(sys.stderr)


def _is_writable(stream: TextIO) -> bool:
    """Whether a stream can still be written. Tried with an empty line, as a second flush does not repeat an error."""
    try:
        stream.write("\n")
        stream.flush()
    except OSError:
        abandon(stream)
        return False
    return True


def _wait_for_first_process() -> None:
    """Wait, in all processes but the first: it prints the common error and ends the others before they repeat it."""
    if os.environ.get("RANK", "0") != "0":
        time.sleep(10)  # on a busy machine the first process needs a while to exit


def _raise_in_debug() -> None:
    if os.environ.get("EDGEKIT_DEBUG"):
        raise  # noqa: PLE0704 - called from an except block
