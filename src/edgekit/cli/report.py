"""`edgekit report`: a run as one HTML page."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.terminal import echo, echo_json


@click.command(name="report")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--output", "-o", type=click.Path(path_type=Path), help="The HTML file.  [default: RUN/report.html]")
@click.option("--open", "open_it", is_flag=True, help="Open it in the browser.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the path, the headline's numbers and what is missing as JSON."
)
def command(run: Path, output: Path | None, open_it: bool, as_json: bool) -> None:
    """Draw the run in the folder RUN as one self-contained HTML page.

    The page needs nothing but a browser. What the run does not have yet is named in it, with the command that makes it.

    \b
    For example:
      edgekit report runs/photos
      edgekit report runs/photos --output photos.html --open
    """
    import json
    import webbrowser

    from edgekit.report.page import write_report
    from edgekit.report.summary import summary

    written = write_report(run, output)
    facts = written.facts
    if as_json:
        echo_json(json.dumps(summary(written), indent=2))
    else:
        for command_line in dict.fromkeys(gap.command for gap in facts.gaps):
            missing = "; ".join(gap.why for gap in facts.gaps if gap.command == command_line)
            echo(f"not in the report: {missing}. Make it with `{command_line}`", err=True)
        echo(str(written.path))
    if open_it and not webbrowser.open(written.path.resolve().as_uri()):
        echo("no browser could be opened; open the file yourself", err=True)
