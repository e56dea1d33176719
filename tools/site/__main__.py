"""Write the measured tables and charts into README.md and `docs/`: `make docs-update`, after a file of `benchmarks/results/` has changed."""

from __future__ import annotations

import sys

from tools.site import figures, tables


def main() -> None:
    """Write what differs, and print its path."""
    wanted = {tables.ROOT / path: content for path, content in figures.files().items()}
    wanted |= {path: tables.filled(path.read_text()) for path in tables.pages()}
    for path, content in wanted.items():
        if not path.is_file() or path.read_text() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
            sys.stdout.write(f"{path.relative_to(tables.ROOT)}\n")


if __name__ == "__main__":
    main()
