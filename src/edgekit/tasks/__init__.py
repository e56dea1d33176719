"""The tasks, by name: what a model answers, and all that follows from it. NumPy alone.

A package adds a task of its own by one entry point of the group `edgekit.tasks`, whose name is the task's and which gives a
`task.Task`; every process of edgekit finds it there (see CONTRIBUTING.md). No task is imported before a bundle asks for it.
"""

from __future__ import annotations

import re
from functools import cache

from edgekit.errors import EdgekitError, shortened
from edgekit.targets import resolve
from edgekit.task_names import ANOMALY, CLASSIFICATION, MULTILABEL, RECOGNITION
from edgekit.tasks.task import EMBEDDING, UNKNOWN, Answer, Likeness, Outputs, Task

GROUP = "edgekit.tasks"  # of the entry points that add tasks
DEFAULT = CLASSIFICATION  # of whoever does not say, and of bundles older than the tasks
_BUILT_IN: dict[str, str] = {
    CLASSIFICATION: "edgekit.tasks.classification:CLASSIFICATION",
    RECOGNITION: "edgekit.tasks.recognition:RECOGNITION",
    MULTILABEL: "edgekit.tasks.multilabel:MULTILABEL",
    ANOMALY: "edgekit.tasks.anomaly:ANOMALY_DETECTION",
}
_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")


def find(name: object) -> Task:
    """A task by its name.

    Raises:
        EdgekitError: there is none of that name here: edgekit is too old, or the package that adds it is missing or broken.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise EdgekitError(f"{shortened(repr(name))} is not the name of a task", "name one such as classification")
    if name in _BUILT_IN:  # without a look at what is installed
        found: Task = resolve(_BUILT_IN[name])
        return found
    return _added(name)


@cache
def _added(name: str) -> Task:
    from importlib.metadata import entry_points

    points = list(entry_points(group=GROUP, name=name))
    if not points:
        raise EdgekitError(
            f"this edgekit does not know the task {name}", "update edgekit, or install the package that adds it"
        )
    hint = "update that package, or uninstall it"
    packages = ", ".join(p.dist.name if p.dist is not None else p.value for p in points)
    if len(points) > 1:
        raise EdgekitError(f"several packages add the task {name}: {packages}", "uninstall all but one of them")
    try:
        task = points[0].load()
    except Exception as error:  # of whatever kind: it is somebody else's module
        reason = f"{type(error).__name__}: {error}"
        raise EdgekitError(f"the package {packages}, task {name}: does not load: {reason}", hint) from error
    if not isinstance(task, Task) or task.name != name:
        raise EdgekitError(f"the package {packages}, task {name}: {points[0].value} is no Task of that name", hint)
    return task


__all__ = [
    "ANOMALY",
    "DEFAULT",
    "EMBEDDING",
    "GROUP",
    "MULTILABEL",
    "RECOGNITION",
    "UNKNOWN",
    "Answer",
    "Likeness",
    "Outputs",
    "Task",
    "find",
]
