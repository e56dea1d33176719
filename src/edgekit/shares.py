"""Shares in [0, 1], such as accuracies: computed once from counts, and written as percentages by one rule everywhere.

1269 right of 2000 are 63.45 %. As a float32 that is 0.6345000267, as a float64 a little less than 0.6345, and formatted as they
are they give 63.5 % and 63.4 % on the same page. So a share is taken for the shortest decimal that is stored as the same number, which is
what was meant wherever it came from counts, and a half is rounded away from zero, as one does by hand.
"""

from __future__ import annotations

import math
import struct
from decimal import ROUND_HALF_UP, Decimal

_DIGITS = 12  # of a difference of two float64 shares: what is behind is what the subtraction left


def share_of(count: int, total: int) -> float:
    """`count` of `total` as a float64; not a number where there is nothing to count."""
    return count / total if total else math.nan


def difference(a: float, b: float) -> float:
    """a - b of two shares, without the noise of either."""
    return float(_decimal(a) - _decimal(b)) if math.isfinite(a) and math.isfinite(b) else a - b


def percent(share: float, decimals: int = 1, *, gap: str = "", signed: bool = False) -> str:
    """A share as `63.5%`; `gap` goes before the sign, `signed` puts a plus before what is not negative."""
    return f"{hundredths(share, decimals, signed=signed)}{gap}%"


def hundredths(share: float, decimals: int = 1, *, signed: bool = False) -> str:
    """A share in hundredths, without the percent sign: `63.5`; also a difference of two shares, in percentage points."""
    if not math.isfinite(share):
        return f"{share:{'+' if signed else ''}}"
    rounded = (_decimal(share) * 100).quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP)
    return f"{rounded + 0:{'+' if signed else ''}f}"  # + 0: no minus before a zero


def _decimal(share: float) -> Decimal:
    if abs(share) < 1e6 and _as_single(share) == share:
        for digits in range(6, 10):  # a float32 is told apart by 9 significant digits at most, and often by fewer
            text = f"{share:.{digits}g}"
            if _as_single(float(text)) == share:
                return Decimal(text)
    return Decimal(repr(round(share, _DIGITS)))


def _as_single(value: float) -> float:
    """The nearest float32."""
    single: float = struct.unpack("f", struct.pack("f", value))[0]
    return single
