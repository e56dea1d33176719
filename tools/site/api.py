"""The page of the Python interface: what `import edgekit` offers, from the docstrings."""

from __future__ import annotations

import edgekit

_GROUPS = {
    "Train and judge": ("Recipe", "Run", "train", "evaluate", "embed", "report"),
    "Export and run": ("export", "Bundle", "load", "Predictor", "Prediction"),
    "Measure and choose": ("bench", "search", "Result"),
    "Errors": ("EdgekitError",),
}


def pages() -> dict[str, str]:
    """Return the Markdown of the page by its path below `docs/`; mkdocstrings fills it from the source."""
    modules = {**edgekit._MODULES, **edgekit._CALLABLE}
    named = [name for names in _GROUPS.values() for name in names]
    missing = {*edgekit.__all__} - {*named, "__version__"}
    if missing:
        raise ValueError(f"tools/site/api.py does not say where these belong: {', '.join(sorted(missing))}")
    lines = [
        "# Python interface",
        "",
        "[Python](../python.md) shows how they work together. Each name is imported on first use.",
        "",
    ]
    for title, names in _GROUPS.items():
        lines += [f"## {title}", ""]
        for name in names:
            lines += [
                f"::: {modules[name]}.{name}",
                "    options:",
                f"      heading: edgekit.{name}",
                f"      toc_label: {name}",
                "",
            ]
    return {"reference/python-api.md": "\n".join(lines)}
