"""Turn click's usage errors into one-line errors like all others; click itself would print a page of usage."""

from __future__ import annotations

from typing import Any

import click

from edgekit.errors import EdgekitError, near


def usage_error(error: click.ClickException) -> EdgekitError:
    """Return an error that names the option or argument, the value, the accepted values, and the help page."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    help_ = f"see {context.command_path if context else 'edgekit'} --help"
    if isinstance(error, click.NoSuchOption):
        return EdgekitError(f"no such option {error.option_name}", _meant(error.option_name, context) or help_)
    if isinstance(error, click.MissingParameter) and error.param is not None:
        usage = " ".join(context.get_usage().split()) if context else help_
        accepted = f", {_accepted(error.param.type)}" if _accepted(error.param.type) else ""
        return EdgekitError(f"{_name(error.param)} is missing{accepted}", usage[:1].lower() + usage[1:])
    if isinstance(error, click.BadParameter) and error.param is not None:
        return _bad_value(error.message, error.param, help_)
    if isinstance(error, click.BadOptionUsage) and context is not None:
        parameter = next((p for p in context.command.params if error.option_name in p.opts), None)
        accepted = _accepted(parameter.type) if parameter else ""
        return EdgekitError(_plain(error.message), f"it takes {accepted}" if accepted else help_)
    return EdgekitError(_plain(error.format_message()), help_)


def _bad_value(message: str, parameter: click.Parameter, help_: str) -> EdgekitError:
    value, separator, _ = message.partition(" is not ")  # click's messages begin with the value, then name the type
    accepted = _accepted(parameter.type)
    if not (separator and accepted):
        return EdgekitError(f"{_name(parameter)}: {_plain(message)}", help_)
    choices = parameter.type.choices if isinstance(parameter.type, click.Choice) else ()
    hint = near(value.strip("'\""), [str(choice) for choice in choices]) or help_
    return EdgekitError(f"{_name(parameter)}: {value} is not {accepted}", hint)


def _meant(option: str, context: click.Context | None) -> str:
    """Return a hint with similar options of this command, or that the option belongs before the command."""
    if context is None:
        return ""
    if context.parent and any(option in p.opts for p in context.parent.command.params):
        return f"put it before the command: edgekit {option} {context.info_name} …"
    return near(
        option, [name for p in context.command.params for name in (*p.opts, *p.secondary_opts) if name[:1] == "-"]
    )


def _accepted(kind: click.ParamType[Any]) -> str:
    """Describe the values that a type accepts; empty where click's own message is better (paths, text)."""
    if isinstance(kind, click.Choice):
        return f"one of {', '.join(str(choice) for choice in kind.choices)}"
    if not isinstance(kind, (type(click.INT), type(click.FLOAT))):
        return ""
    number = "a whole number" if isinstance(kind, type(click.INT)) else "a number"
    bounds = []
    if isinstance(kind, (click.IntRange, click.FloatRange)):
        if kind.min is not None:
            bounds.append(f"{'above' if kind.min_open else 'of at least'} {kind.min:g}")
        if kind.max is not None:
            bounds.append(f"{'below' if kind.max_open else 'at most'} {kind.max:g}")
    return " ".join([number, " and ".join(bounds)]).strip()


def _name(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Argument):
        return parameter.metavar or (parameter.name or "argument").upper()
    return max(parameter.opts, key=len)


def _plain(message: str) -> str:
    """Return the message in our style: no capital at the beginning, no full stop at the end."""
    message = message.removesuffix(".")
    return message[:1].lower() + message[1:] if message[1:2].islower() else message
