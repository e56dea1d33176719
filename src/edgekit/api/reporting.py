"""A run's report from Python."""

from __future__ import annotations

from pathlib import Path

from edgekit.report.page import write_report
from edgekit.run import Run


def report(run: Run | Path | str, output: Path | str | None = None) -> Path:
    """Draw a run's results as one self-contained HTML page, as `edgekit report` does.

    Args:
        run: the run or its folder.
        output: the HTML file; None: `report.html` in the run's folder.

    Returns:
        The HTML file's path.

    Raises:
        RunError, RecipeError: it is no run, or its recipe cannot be understood.
        RuntimeMissing: the extra [report] is not installed.
        EdgekitError: the file cannot be written.
    """
    return write_report(run.path if isinstance(run, Run) else run, Path(output) if output is not None else None).path
