"""The variants of one export, one after the other or several at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from edgekit.bundle import Variant
from edgekit.export.staging import Staging
from edgekit.export.targets import Sources, make


def make_all(ids: list[str], sources: Sources, staging: Staging, jobs: int) -> Iterator[Variant]:
    """Make variants, each in its folder of the staging area; gives each as it is made.

    Args:
        ids: of the variants.
        sources: what they are made from.
        staging: where their files go.
        jobs: how many at a time.
    """
    for id_ in ids:
        yield make(id_, replace(sources, folder=staging.folder(id_)))
