"""The pages without mkdocs: the menu names pages that are there, and links lead to headings that are there. `test_site.py` builds them."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from tools.site import api, commands, hooks, schemas, tables

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
_FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{1,6} (?P<text>.+?)(?:\s*\{: #(?P<id>[\w-]+) \})?$", re.MULTILINE)
_LINK = re.compile(r"\]\((?P<target>[^)\s#]*)#(?P<anchor>[^)\s]+)\)")


class _Config(yaml.SafeLoader):
    """mkdocs.yml has tags for Python's names; here they are text."""


_Config.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)
CONFIG = yaml.load((ROOT / "mkdocs.yml").read_text(), _Config)


def slug(heading: str) -> str:
    """The anchor that Python-Markdown's `toc` and GitHub give a heading of plain words (markdown.extensions.toc.slugify)."""
    text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower())


def anchors(markdown: str) -> set[str]:
    """The anchors of a page."""
    found = [found["id"] or slug(found["text"]) for found in _HEADING.finditer(_FENCE.sub("", markdown))]
    ids = set(re.findall(r'(?:id|name)="([\w-]+)"', markdown)) | set(re.findall(r"\{: #([\w-]+) \}", markdown))
    return {*found, *ids}


def pages() -> dict[str, str]:
    """Every page of the site by its path below `docs/`, but for what mkdocstrings makes of the docstrings."""
    found = {path.relative_to(DOCS).as_posix(): path.read_text() for path in DOCS.rglob("*.md")}
    found |= {page: (ROOT / source).read_text() for source, page in hooks._PAGES.items() if page != "index.md"}
    return {**found, **commands.pages(), **schemas.pages(), **api.pages()}


PAGES = pages()


def menu() -> Iterator[str]:
    yield from hooks._paths(hooks.on_config(SimpleNamespace(nav=CONFIG["nav"])).nav)


def test_the_menu_names_every_page_once_and_no_other() -> None:
    placed = [*menu()]
    assert sorted(placed) == sorted(set(placed))
    aside = CONFIG["not_in_nav"].split()
    listed = {
        page for page in PAGES if page not in aside and not page.startswith(tuple(a for a in aside if a.endswith("/")))
    }
    assert {*placed} == listed


@pytest.mark.parametrize("page", sorted(PAGES))
def test_links_lead_to_headings_that_are_there(page: str) -> None:
    folder = posixpath.dirname(page)
    text = _FENCE.sub("", PAGES[page])
    for found in _LINK.finditer(text):
        if "://" in found["target"]:
            continue
        # The project's own files are pages; they link as in the repository.
        source = (
            {there: here for here, there in hooks._PAGES.items()}.get(page) if page.startswith("project/") else None
        )
        base = posixpath.dirname(source) if source is not None else posixpath.join("docs", folder)
        path = posixpath.normpath(posixpath.join(base, found["target"])) if found["target"] else None
        there = page if path is None else hooks._PAGES.get(path, path.removeprefix("docs/"))
        if there.endswith(".html") or there not in PAGES:
            continue
        assert found["anchor"] in anchors(PAGES[there]), f"{page}: {found['target']}#{found['anchor']}"


def test_a_heading_that_is_gone_is_seen() -> None:
    assert slug("What `init` measures, and 5 % of *it*") == "what-init-measures-and-5-of-it"
    assert anchors("# A b\n```sh\n# no heading\n```\n## C { d }\n## E {: #f }\n") == {"a-b", "c-d", "f"}


def test_charts_tables_and_numbers_are_on_pages() -> None:
    readme = (ROOT / "README.md").read_text()
    assert {name for text in (*PAGES.values(), readme) for name in tables.marked(text)} == {
        *tables.TABLES,
        *tables.NUMBERS,
    }
