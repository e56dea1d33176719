"""`edgekit report`: write a run's results as one HTML page."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.terminal import echo, echo_json


@click.command(name="report")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--output", "-o", type=click.Path(path_type=Path), help="The HTML file.  [default: RUN/report.html]")
@click.option("--open", "open_it", is_flag=True, help="Open it in the browser.")
@click.option("--json", "as_json", is_flag=True, help="Print the path, the main numbers and the missing parts as JSON.")
def command(run: Path, output: Path | None, open_it: bool, as_json: bool) -> None:
    """Write the results of RUN (a folder) as one self-contained HTML page.

    The page needs only a browser, no network. Missing parts are named in it, with the commands that make them.

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
            echo(f"not in the report: {missing}. To add it, run `{command_line}`", err=True)
        echo(str(written.path))
    if open_it and not webbrowser.open(written.path.resolve().as_uri()):
        echo("no browser could be started: open the file yourself", err=True)
