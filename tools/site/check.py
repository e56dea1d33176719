"""Check a built site: `python -m tools.site.check build/site`.

Every link, image, script and style sheet must lead to a file of the site, every `#anchor` to an element of the page, and nothing may be loaded
from elsewhere. Links for the reader to other sites are counted; nobody asks for them here.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# attributes whose address is loaded with the page, and those that a reader follows
_LOADED = {("img", "src"), ("script", "src"), ("link", "href"), ("iframe", "src"), ("source", "src"), ("video", "src")}
_FOLLOWED = {("a", "href")}
_NOT_LOADED = {"canonical", "prev", "next"}  # relations of <link> that name a page


class _Page(HTMLParser):
    """The addresses and the anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[tuple[str, bool]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors |= {value for key in ("id", "name") if (value := values.get(key))}
        if tag == "link" and values.get("rel") in _NOT_LOADED:
            return
        for key, value in values.items():
            if value and (tag, key) in _LOADED | _FOLLOWED:
                self.links.append((value, (tag, key) in _LOADED))


def faults(site: Path) -> tuple[list[str], int]:
    """Return what is wrong, one line each, and the number of links that were followed."""
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    found, followed = [], 0
    for path, page in pages.items():
        for address, loaded in page.links:
            parts = urlsplit(address)
            where = f"{path.relative_to(site)}: {address}"
            if parts.scheme in {"http", "https"} or parts.netloc:
                if loaded:
                    found.append(f"{where}: loaded from another site")
                continue
            if parts.scheme:
                continue
            followed += 1
            # Only the page of unknown addresses has links from the root.
            base = site if parts.path.startswith("/") else path.parent
            target = (base / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                found.append(f"{where}: no such file")
            elif target in pages and not _is_there(unquote(parts.fragment), pages[target]):
                found.append(f"{where}: no such anchor")
    return found, followed


def _is_there(anchor: str, page: _Page) -> bool:
    return (
        not anchor or anchor.startswith("__") or anchor in page.anchors
    )  # the theme's script makes those that begin so


def main() -> None:
    """Check the folder that the command line names; exit code 1 if something is wrong."""
    site = Path(sys.argv[1]).resolve()
    if not (site / "index.html").is_file():
        sys.exit(f"{sys.argv[1]}: no site here; `make docs` builds it")
    found, followed = faults(site)
    sys.stdout.write(
        "".join(f"{line}\n" for line in found) + f"{followed} links within the site, {len(found)} broken\n"
    )
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
