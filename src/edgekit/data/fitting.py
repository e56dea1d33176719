"""Compare a label budget with the numbers of images of a folder, before anything is decoded: `edgekit init --labels`."""

from __future__ import annotations

from edgekit.data.labels import budget_counts, share
from edgekit.data.layout import Layout
from edgekit.errors import DataError, EdgekitError
from edgekit.recipe import DataConfig, LabelCount
from edgekit.text import counted

_MARGIN = 2  # images of a class that may be unreadable or copies


def fitting_budget(labels: str, data: DataConfig, layout: Layout) -> tuple[str, str]:
    """Return a budget that every class can give, and a note if some class certainly has fewer images than the budget's number per class.

    Images that cannot be read and copies of one another, which only the training finds, may leave fewer images than the counts of the
    folder say, never more.

    Args:
        labels: the user's budget, for messages.
        data: the recipe's part, with that budget.
        layout: what the folder holds.

    Returns:
        The budget as YAML, in which classes with fewer images give all that they have; empty if the user's will do. The note, or an empty
        text.

    Raises:
        EdgekitError: a class certainly has too few images, and the budget does not allow that.
    """
    totals, budget = layout.class_images, data.labels
    if not totals:
        return "", ""
    base = [n - share(n, data.test) if isinstance(data.test, float) else n for n in totals]
    available = [max(0, b - share(n, data.probe)) if data.probe else b for b, n in zip(base, totals, strict=True)]
    if isinstance(budget, int):
        note = "" if layout.several else _too_few(budget, available, layout.classes)
        fitting = f"{{per_class: {budget}, at_most: true}}" if budget > min(available) - _MARGIN else ""
        return fitting, note and f"--labels {labels}: {note}"
    if isinstance(budget, (float, LabelCount)) and not layout.several:
        try:
            budget_counts(budget, base, available, layout.classes, where=f"--labels {labels}")
        except DataError as error:
            raise EdgekitError(
                error.message,
                f"give at most {min(available)} per class, 1.0 for all labels, or a smaller share",
            ) from error
    return "", ""


def _too_few(budget: int, available: list[int], classes: list[str]) -> str:
    """Which classes have fewer images than a number per class; empty if none has."""
    short = [c for c, left in enumerate(available) if left < budget]
    if not short:
        return ""
    first = min(short, key=lambda c: available[c])
    more = f" ({counted(len(short) - 1, 'more class is', 'more classes are')} short)" if len(short) > 1 else ""
    return (
        f"the class {classes[first]} has at most {counted(available[first], 'image')} left outside the test and probe sets{more}; "
        f"a class with fewer than {budget} gives all that it has"
    )
