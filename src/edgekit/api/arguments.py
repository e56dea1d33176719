"""What the functions of this package accept for an argument."""

from __future__ import annotations

from collections.abc import Sequence


def several(given: str | Sequence[str]) -> tuple[str, ...]:
    """Return one text, or several, as a tuple."""
    return (given,) if isinstance(given, str) else tuple(given)
