"""Format numbers for people: each with its unit, percentages with one decimal, `n/a` for None."""

from __future__ import annotations

import math

from edgekit import shares

NONE = "n/a"
MINUS = "\u2212"
_SPACE = "\u00a0"  # between a number and its unit, where no line may break


def percent(share: float | None, decimals: int = 1) -> str:
    """Format a share in [0, 1] as `96.4 %`."""
    return NONE if share is None else shares.percent(share, decimals, gap=_SPACE)


def hundredths(share: float, decimals: int = 1) -> str:
    """Format a share in percent without the percent sign, or a difference in points with only a minus sign: `96.4`, `−0.6`."""
    return shares.hundredths(share, decimals).replace("-", MINUS)


def points(share: float | None) -> str:
    """Format a difference of two shares in percentage points, with its sign: `+12.3`, `−0.6`, `0.0`."""
    if share is None:
        return NONE
    text = shares.hundredths(share, signed=True)
    return "0.0" if text == "+0.0" else text.replace("-", MINUS)


def significant(value: float, digits: int = 3) -> str:
    """Format a number with `digits` significant digits and without an exponent: `0.0421`, `1.23`, `45.6`, `1,234`."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else NONE
    rounded = float(f"{value:.{digits - 1}e}")  # 0.9999 has as many decimals as 1.00
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{value:,.{decimals}f}".replace("-", MINUS)


def milliseconds(value: float | None) -> str:
    """Format a duration in milliseconds with three significant digits and its unit."""
    return NONE if value is None else f"{significant(value)}{_SPACE}ms"


def size(count: float | None) -> str:
    """Format a number of bytes in decimal units: `712 kB`, `1.24 MB`."""
    if count is None:
        return NONE
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f}{_SPACE}{unit}" if unit == "B" else f"{significant(count)}{_SPACE}{unit}"


def memory(count: int | None) -> str:
    """Format a number of bytes in GiB, as is usual for memory."""
    return NONE if count is None else f"{count / 2**30:.1f}{_SPACE}GiB"


def duration(seconds: float | None) -> str:
    """Format a duration as `8.2 s`, `3 min 05 s` or `2 h 14 min`."""
    if seconds is None:
        return NONE
    if seconds < 0.05:
        return f"under{_SPACE}0.1{_SPACE}s"
    if seconds < 59.95:
        return f"{seconds:.1f}{_SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{_SPACE}min{_SPACE}{rest:02}{_SPACE}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}{_SPACE}h{_SPACE}{minutes:02}{_SPACE}min"


def count(number: int | None) -> str:
    """Format a whole number with thousands separators."""
    return NONE if number is None else f"{number:,}"


def plain(number: float) -> str:
    """Format a number for an axis or a cell, as short as possible: `0.05`, `12`, `1e-05`."""
    if number != 0 and not 1e-4 <= abs(number) < 1e6:
        return f"{number:.3g}".replace("-", MINUS)
    return f"{number:.6g}".replace("-", MINUS)


def difference(value: float | None) -> str:
    """Format a small difference: with fixed digits if possible, otherwise with an exponent."""
    if value is None:
        return NONE
    return "0" if value == 0 else f"{value:.2g}" if abs(value) < 1e-3 else significant(value)


def day(iso: str) -> str:
    """Format an ISO 8601 time as `2026-03-01 12:30 UTC` (times in results are in UTC)."""
    return f"{iso[:10]} {iso[11:16]} UTC" if len(iso) >= 16 else iso
