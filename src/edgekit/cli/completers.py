"""What tab-completion offers for arguments and options. Read while somebody types: nothing here loads more than it needs, prints or fails."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import click
from click.shell_completion import CompletionItem


def files(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """Let the shell complete files and folders, for a text that may be a path."""
    return [CompletionItem(typed, type="file")]


def variants(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """Offer the ids of the variants of the bundle that stands on the line; none if it cannot be read."""
    # Click leaves the bundle among the other words while the value of the option is missing.
    bundle = context.params.get("bundle") or next(iter(context.args), None)
    if bundle is None:
        return []
    with suppress(Exception):  # of a damaged bundle, too: an error would be printed into the line that is typed
        from edgekit.bundle import read_manifest

        manifest = read_manifest(Path(bundle).expanduser())
        return [CompletionItem(v.id, help=v.status) for v in manifest.variants if v.id.startswith(typed)]
    return []
