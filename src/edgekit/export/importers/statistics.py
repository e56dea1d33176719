"""Mean and standard deviation of the normalization, for pixels in [0, 1] or in 0 to 255."""

from __future__ import annotations

from edgekit.errors import ExportError
from edgekit.models.pixels import Statistics

_WHITE = 255


def in_unit_range(mean: Statistics, std: Statistics, model: str) -> tuple[Statistics, Statistics, bool]:
    """Convert statistics to pixels in [0, 1]; those for pixels in 0 to 255 are divided by 255.

    The latter are recognized by a number above 1, which pixels in [0, 1] cannot have. Caffe's networks only subtract a mean,
    `--mean 104,117,123 --std 1`.

    Returns:
        mean, std, and whether they were divided.

    Raises:
        ExportError: mean and std are for different ranges, or for neither range.
    """
    means, stds = (v if isinstance(v, tuple) else (v,) for v in (mean, std))
    if max(abs(v) for v in means) <= 1 and max(stds) <= 1:
        return mean, std, False
    listed = f"--mean {','.join(f'{v:g}' for v in means)} --std {','.join(f'{v:g}' for v in stds)}"
    hint = "give both for pixels in [0, 1], or both for pixels in 0 to 255"
    if min(means) < 0 or max(means) > _WHITE or max(stds) > _WHITE + 1:
        raise ExportError(f"{model}: {listed}: does not fit pixels in [0, 1] or in 0 to 255", hint)
    if min(stds) < 1 or (max(means) <= 1 and any(means)):
        raise ExportError(f"{model}: {listed}: one is for pixels in [0, 1], the other for pixels in 0 to 255", hint)
    return _divided(mean), _divided(std), True


def _divided(values: Statistics) -> Statistics:
    if isinstance(values, tuple):
        return values[0] / _WHITE, values[1] / _WHITE, values[2] / _WHITE
    return values / _WHITE
