"""The site as `make docs` builds it: no warning, no broken link, nothing from the network, readable at two widths.

It needs the extra [docs], which the job that builds the site installs; it is not part of [dev].
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from tools.site import api, check, commands, hooks, schemas

from edgekit.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
MKDOCS = shutil.which("mkdocs", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
built = pytest.mark.skipif(MKDOCS is None, reason="needs the extra [docs]: builds the site")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "NO_MKDOCS_2_WARNING": "1"}
    command = [str(MKDOCS), "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


@built
@pytest.mark.slow
def test_every_link_leads_somewhere_and_nothing_is_fetched(site: Path) -> None:
    found, followed = check.faults(site)
    assert found == []
    assert followed > 1000


@built
@pytest.mark.slow
def test_there_is_a_page_for_every_command_and_format(site: Path) -> None:
    for name in COMMANDS:
        assert f"edgekit {name}" in (site / "reference" / "cli" / f"{name}.html").read_text()
    for name in ("recipe", "bundle", "result", "python-api"):
        assert (site / "reference" / f"{name}.html").is_file()


@built
@pytest.mark.slow
def test_ten_questions_are_answered_within_two_clicks(site: Path) -> None:
    text = (ROOT / "docs" / "index.md").read_text().partition("## Ten questions")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (?!question)([^|]+) \| .*\]\(([^)]+)\)", text, re.MULTILINE)
    assert len(rows) == 10
    for question, target in rows:
        page, _, anchor = target.partition("#")
        answer = (site / page).with_suffix(".html").read_text()
        assert not anchor or f'id="{anchor}"' in answer, question


@built
@pytest.mark.extra
@pytest.mark.parametrize("width", [1280, 390])
def test_the_browser_opens_every_page_without_a_complaint(site: Path, browser: Any, width: int) -> None:
    complaints: list[str] = []
    context = browser.new_context(viewport={"width": width, "height": 900}, offline=True)
    context.set_default_timeout(0)
    page = context.new_page()
    page.on(
        "console",
        lambda message: (
            complaints.append(f"{page.url}: {message.text}") if message.type in {"error", "warning"} else None
        ),
    )
    page.on("pageerror", lambda error: complaints.append(f"{page.url}: {error}"))
    page.on("request", lambda request: complaints.append(request.url) if request.url.startswith("http") else None)
    for path in sorted(site.rglob("*.html")):
        if path.name == "404.html":  # its links start at the server's root
            continue
        page.goto(path.as_uri())
        wider = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        if wider > 0:
            complaints.append(f"{path.relative_to(site)}: {wider} pixels wider than the window")
    assert complaints == []
    context.close()


@built
@pytest.mark.extra
def test_the_search_finds_a_page_that_is_opened_from_a_disk(site: Path, browser: Any) -> None:
    page = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True).new_page()
    page.set_default_timeout(0)
    page.goto((site / "index.html").as_uri())
    page.fill(".md-search__input", "raspberry")
    page.wait_for_selector(".md-search-result__item a")
    assert page.locator(".md-search-result__item a[href*='raspberry-pi']").count() > 0


def test_the_checker_finds_what_is_broken(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(
        '<a href="other.html#here">a</a><a href="other.html#nowhere">b</a><a href="gone.html">c</a>'
        '<script src="https://example.org/x.js"></script><a href="https://example.org">fine</a><img src="none.png">'
    )
    (tmp_path / "other.html").write_text('<h1 id="here">Here</h1>')
    found, followed = check.faults(tmp_path)
    assert [line.split(": ", 1)[1] for line in found] == [
        "other.html#nowhere: no such anchor",
        "gone.html: no such file",
        "https://example.org/x.js: loaded from another site",
        "none.png: no such file",
    ]
    assert followed == 4


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_page_of_a_command_has_every_option(name: str) -> None:
    import click

    from edgekit.cli.main import cli

    text = commands.pages()[f"reference/cli/{name}.md"]
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            assert option.opts[-1] in text
    assert "\b" not in text
    assert f"edgekit {name} " in text


def test_the_pages_of_the_formats_have_every_key_and_no_dead_anchor() -> None:
    from edgekit.recipe import Recipe

    pages = schemas.pages()
    for name, part in Recipe.model_json_schema()["$defs"].items():
        for key in part.get("properties", ()):
            assert f"| `{key}` |" in pages["reference/recipe.md"], f"{name}.{key}"
    for text in pages.values():
        anchors = {*re.findall(r"\{: #([\w-]+) \}", text)}
        assert {*re.findall(r"\]\(#([\w-]+)\)", text)} <= anchors


def test_a_page_that_nobody_placed_is_in_the_navigation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("data.md", "new-task.md", "tutorials/index.md", "tutorials/new-story.md"):
        (tmp_path / "docs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "docs" / name).touch()
    monkeypatch.setattr(hooks, "ROOT", tmp_path)
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    parts = {name: value for part in hooks.on_config(SimpleNamespace(nav=nav)).nav for name, value in part.items()}
    assert parts["How-to"][-1] == "new-task.md"
    assert parts["Tutorials"][-1] == "tutorials/new-story.md"
    assert parts["Tutorials"].count("tutorials/index.md") == 1
    assert f"reference/cli/{next(iter(COMMANDS))}.md" in [*hooks._paths(nav)]


def test_only_a_site_that_is_published_has_a_menu_of_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    monkeypatch.delenv(hooks.VERSIONED, raising=False)
    assert hooks.on_config(SimpleNamespace(nav=nav, extra={})).extra == {}
    monkeypatch.setenv(hooks.VERSIONED, "1")
    assert hooks.on_config(SimpleNamespace(nav=nav, extra={})).extra == {"version": {"provider": "mike"}}
    assert f"{hooks.VERSIONED}=1 $(BIN)/mike deploy" in (ROOT / "Makefile").read_text()


def test_links_to_files_of_the_repository_are_understood() -> None:
    inside = hooks._in_repository
    assert inside("tutorials/jetson.md", "../../examples/make_photos.py") == "examples/make_photos.py"
    assert inside("tutorials/jetson.md", "../export.md") == "docs/export.md"
    assert inside("project/changelog.md", "docs/export.md") == "docs/export.md"
    assert inside("index.md", "https://example.org/a.md") is None
    assert inside("index.md", "../../outside.md") is None


def test_the_python_interface_is_whole() -> None:
    import edgekit

    text = api.pages()["reference/python-api.md"]
    for name in {*edgekit.__all__} - {"__version__"}:
        assert f"heading: edgekit.{name}\n" in text
