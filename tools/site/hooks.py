"""mkdocs calls these functions while it builds the site (`hooks:` in `mkdocs.yml`).

The pages of `docs/` are read on GitHub, too, so they link to files of the repository by relative paths. On the site each such link leads to a page
(CONTRIBUTING, CHANGELOG), or to a copy of the file below `files/`: the site needs no network.
"""

from __future__ import annotations

import os
import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
for _folder in (ROOT, ROOT / "src"):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

from tools.site import api, commands, figures, schemas, tables  # noqa: E402

VERSIONED = "EDGEKIT_DOCS_VERSIONED"  # set by `make docs-release`: the site has a menu of versions
# files of the repository that are pages of the site
_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "CODE_OF_CONDUCT.md": "project/code-of-conduct.md",
    "SECURITY.md": "project/security.md",
}
_FETCHED = '<script src="https://unpkg.com/iframe-worker/shim"></script>'
_IMAGE = re.compile(r"!\[[^\]]*\]\((?P<target>[^)\s]*assets/[^)\s]+\.svg)\)")
_LINK = re.compile(r"(?<=\]\()(?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?(?=\))")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List every command of `edgekit --help` in the navigation, and the pages that `mkdocs.yml` does not place, at the end of their part."""
    # Otherwise every page would ask for a list of versions that a folder on a disk does not have.
    if os.environ.get(VERSIONED):
        config.extra["version"] = {"provider": "mike"}
    names = [{name: f"reference/cli/{name}.md"} for name in commands.COMMANDS]
    _replace(config.nav, "COMMANDS", ["reference/cli/index.md", *names])
    placed = {*_paths(config.nav)}
    for part, folder in (("How-to", ""), ("Tutorials", "tutorials/")):
        found = sorted(path.name for path in (ROOT / "docs" / folder).glob("*.md"))
        _entry(config.nav, part).extend(f"{folder}{name}" for name in found if f"{folder}{name}" not in placed)
    return config


def _paths(nav: object) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    for item in nav if isinstance(nav, list) else nav.values() if isinstance(nav, dict) else ():
        yield from _paths(item)


def _entry(nav: list[dict[str, list[object]]], part: str) -> list[object]:
    return next(item[part] for item in nav if part in item)


def _replace(nav: object, name: str, value: list[object]) -> None:
    for item in nav if isinstance(nav, list) else nav.values() if isinstance(nav, dict) else ():
        if isinstance(item, dict):
            for key, child in item.items():
                if child == name:
                    item[key] = value
                else:
                    _replace(child, name, value)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, the project's own, and copies of the repository's files that pages link to."""
    from mkdocs.structure.files import File

    for source, page in _PAGES.items():
        if page != "index.md":
            files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    for page, content in {**commands.pages(), **schemas.pages(), **api.pages()}.items():
        files.append(File.generated(config, page, content=content))
    linked: set[str] = set()
    for file in [file for file in files if file.is_documentation_page() and file.inclusion.is_included()]:
        for found in _LINK.finditer(file.content_string):
            linked.add(_in_repository(file.src_uri, found["target"]) or "")
    outside = [path for path in linked - {"", *_PAGES} if not path.startswith("docs/")]
    folders = {path: _files(ROOT / path) for path in outside if (ROOT / path).is_dir()}
    copied = {path for path in outside if (ROOT / path).is_file()}
    for path, names in folders.items():
        lines = [
            f"# {path}",
            "",
            "The files of this folder of the repository:",
            "",
            *(f"- [{name}]({name})" for name in names),
            "",
        ]
        files.append(File.generated(config, f"files/{path}/index.md", content="\n".join(lines)))
        copied |= {f"{path}/{name}" for name in names}
    for path in sorted(copied):
        files.append(File.generated(config, f"files/{path}", content=(ROOT / path).read_bytes()))
    return files


def _files(folder: Path) -> list[str]:
    """Return the names of a folder's files, also of those in its folders, but of nothing that was made there."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return sorted(name for name in names if not re.search(r"(^|/)(__pycache__|\.|runs/|build/)", name))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make the measured tables, put charts into the page, and lead links to files of the repository to their copies."""

    def site_link(found: re.Match[str]) -> str:
        path = _in_repository(page.file.src_uri, found["target"])
        if path is None or page.file.src_uri.startswith("files/"):
            return found[0]
        if path.startswith("docs/"):
            there = path.removeprefix("docs/")
        else:
            there = _PAGES.get(path, f"files/{path}/index.md" if (ROOT / path).is_dir() else f"files/{path}")
        return posixpath.relpath(there, posixpath.dirname(page.file.src_uri) or ".") + (found["anchor"] or "")

    return _LINK.sub(site_link, _IMAGE.sub(_chart, tables.filled(markdown)))


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Put our own script into the place of one that the theme would fetch, for the search of a site that is opened from a disk."""
    script = (ROOT / "tools" / "site" / "offline.js").read_text()
    return output.replace(_FETCHED, f"<script>\n{script}</script>")


def on_post_template(output_content: str, template_name: str, config: MkDocsConfig) -> str:
    """Do the same for the page of unknown addresses."""
    return on_post_page(output_content, None, config) if template_name.endswith(".html") else output_content  # type: ignore[arg-type]


def _chart(found: re.Match[str]) -> str:
    """Return a chart as part of the page, whose colors then follow the page's theme; other images stay links."""
    path = f"docs/assets/{posixpath.basename(found['target'])}"
    charts = figures.files()
    return f'<figure class="chart">\n{figures.inline(charts[path])}\n</figure>' if path in charts else found[0]


def _in_repository(page: str, target: str) -> str | None:
    """Return the path in the repository that a page's relative link means; None if it is no such link."""
    if "://" in target or target.startswith(("mailto:", "/")):
        return None
    sources = {there: here for here, there in _PAGES.items() if there != "index.md"}
    source = sources.get(page, f"docs/{page}")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), unquote(target)))
    return None if path.startswith("..") else path
