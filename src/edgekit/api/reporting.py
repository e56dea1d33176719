"""Write the report of a run from Python."""

from __future__ import annotations

from pathlib import Path

from edgekit.arguments import checked
from edgekit.report.page import write_report
from edgekit.run import Run


@checked()
def report(run: Run | Path | str, output: Path | str | None = None) -> Path:
    """Write the results of a run as one self-contained HTML page, like `edgekit report`.

    Args:
        run: the run or its folder.
        output: the HTML file; None: `report.html` in the run's folder.

    Returns:
        The HTML file's path.

    Raises:
        RunError, RecipeError: it is not a run, or its recipe is invalid.
        RuntimeMissing: the extra [report] is not installed.
        EdgekitError: the file cannot be written.
    """
    return write_report(run.path if isinstance(run, Run) else run, Path(output) if output is not None else None).path
