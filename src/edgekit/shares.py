"""Shares in [0, 1], such as accuracies: computed from counts, and formatted as percentages by one rule everywhere.

1269 correct of 2000 are 63.45 %. As a float32 this is 0.6345000267, as a float64 a little less than 0.6345: formatted directly, they
would give 63.5 % and 63.4 % on the same page. So a share is first converted to the shortest decimal that is stored as the same number
(for shares of counts, the exact value), and a half is rounded away from zero.
"""

from __future__ import annotations

import math
import struct
from decimal import ROUND_HALF_UP, Decimal

_DIGITS = 12  # decimals of a difference of two float64 shares: later ones are rounding errors of the subtraction


def share_of(count: int, total: int) -> float:
    """Return `count` / `total` as a float64; NaN if `total` is 0."""
    return count / total if total else math.nan


def difference(a: float, b: float) -> float:
    """Return a - b of two shares, without the noise of either."""
    return float(_decimal(a) - _decimal(b)) if math.isfinite(a) and math.isfinite(b) else a - b


def percent(share: float, decimals: int = 1, *, gap: str = "", signed: bool = False) -> str:
    """Format a share as `63.5%`; `gap` is put before the percent sign, `signed` adds a plus unless the share is negative."""
    return f"{hundredths(share, decimals, signed=signed)}{gap}%"


def hundredths(share: float, decimals: int = 1, *, signed: bool = False) -> str:
    """Format a share in hundredths, without the percent sign: `63.5`; or a difference of two shares, in percentage points."""
    if not math.isfinite(share):
        return f"{share:{'+' if signed else ''}}"
    rounded = (_decimal(share) * 100).quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP)
    return f"{rounded + 0:{'+' if signed else ''}f}"  # + 0 removes the minus of a zero


def _decimal(share: float) -> Decimal:
    if abs(share) < 1e6 and _as_single(share) == share:
        for digits in range(6, 10):  # 9 significant digits identify a float32, often fewer
            text = f"{share:.{digits}g}"
            if _as_single(float(text)) == share:
                return Decimal(text)
    return Decimal(repr(round(share, _DIGITS)))


def _as_single(value: float) -> float:
    """Return the nearest float32."""
    single: float = struct.unpack("f", struct.pack("f", value))[0]
    return single
