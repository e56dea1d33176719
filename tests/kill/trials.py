"""Trials: a command is killed at its n-th change to the file system, or has a full or faulty disk from there on, and then runs again."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.kill.cases import Case, outcome, plant, write_inputs
from tests.kill.server import Ended, Server
from tests.kill.shim import Change, changes

_EXIT_KILLED = -9
# Of the files that a command leaves, those that are compared, with what is in them.
Compared = Callable[[dict[str, str]], dict[str, str]]
_REASONS = {"full": ("No space left", "full"), "eio": ("Input/output error",)}


@dataclass(frozen=True)
class Point:
    """Where a command is disturbed.

    Args:
        kind: `kill` before the change, `torn` in the middle of it (a write), `full` for a disk that is full from it on, `eio` for a
            file that cannot be written from it on, as on a disk with a bad sector, while all others can.
        n: the number of the change.
    """

    kind: str
    n: int


@dataclass(frozen=True)
class Trial:
    """What became of a point.

    Args:
        case: the command.
        point: where it was disturbed.
        at: the change there; None where the command had ended before.
        faults: what is wrong, a line each.
        code: the exit code of the disturbed command.
        said: the last line of its standard error.
    """

    case: Case
    point: Point
    at: Change | None
    faults: list[str]
    code: int
    said: str


class Bench:
    """A case made ready: what is there before, what an undisturbed command makes of it, and the changes on its way.

    Args:
        case: the command.
        server: runs it.
        folder: for the files; outside no other test's.
    """

    def __init__(self, case: Case, server: Server, folder: Path) -> None:
        self.case, self.server = case, server
        self.template, self.root = folder / "template", folder / "root"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_inputs(self.root)
        for arguments in case.before:
            self._well(self._run(arguments))
        plant(self.root, case.foreign)
        self.before = outcome(self.root)
        shutil.copytree(self.root, self.template, symlinks=True)
        self._well(self._run(case.arguments))
        self.changes = changes(server.log)
        self.after = outcome(self.root)
        self._reset()
        self._well(self._run(case.arguments))
        again = outcome(self.root)
        assert again == self.after, f"undisturbed, {case.name} is not repeatable: {_difference(self.after, again)}"

    def points(self, kind: str, count: int, seed: int = 0) -> list[Point]:
        """So many points, spread over all kinds of changes; all there are where `count` is larger."""
        possible = [change for change in self.changes if kind != "torn" or change.operation == "write"]
        possible = [change for change in possible if kind != "full" or change.takes_space]
        possible = [change for change in possible if kind != "eio" or change.writes]
        return [Point(kind, change.n) for change in spread(possible, count, seed)]

    def trial(self, point: Point) -> Trial:
        """Disturb the command, look at what it left, run it again, and look at what there is then."""
        self._reset()
        ended = self._run(self.case.arguments, point)
        reached = changes(self.server.log)
        at = next((change for change in reached if change.n == point.n), None)
        said = ended.err.strip().splitlines()[-1:]
        compared = _without_the_cache if _went_on_without_the_cache(ended, point, at) else _everything
        faults = self._disturbed(ended, point, at, compared)
        again = self._run(self.case.arguments)
        if again.code != 0:
            faults.append(f"the same command again ends with {again.code}: {again.err.strip()[-400:]}")
        else:
            try:
                if difference := _difference(compared(self.after), compared(outcome(self.root))):
                    faults.append(f"after the same command again: {difference}")
            except Exception as error:
                faults.append(f"after the same command again a file is not whole: {type(error).__name__}: {error}")
        return Trial(self.case, point, at, faults, ended.code, said[0] if said else "")

    def _disturbed(self, ended: Ended, point: Point, at: Change | None, compared: Compared) -> list[str]:
        """What is wrong before the command runs again: with what it said, with the files that were there before."""
        faults = []
        try:
            now = outcome(self.root, unfinished=True)
        except Exception as error:
            return [f"a file is not whole: {type(error).__name__}: {error}"]
        moves = self.case.moves or ("\0",)
        kept = {*self.case.foreign, *(name for name in self.before if not name.startswith(moves))}
        for name in sorted(kept):
            if now.get(name) not in (self.before[name], self.after[name]) and not self._set_aside(name, ended, point):
                faults.append(f"{name}, which was there before, is {'changed' if name in now else 'gone'}")
        if point.kind in ("kill", "torn"):
            if at is not None and ended.code != _EXIT_KILLED:
                faults.append(f"was to be killed and ended with {ended.code}: {ended.err[-300:]}")
            return faults
        faults += self._said(ended, now, point, at, compared)
        names = (path.relative_to(self.root).as_posix() for path in self.root.rglob("*.tmp"))
        if left := sorted(name for name in names if name not in self.before and name not in ended.err):
            faults.append(f"left {', '.join(left[:3])}")
        return faults

    def _said(
        self, ended: Ended, now: dict[str, str], point: Point, at: Change | None, compared: Compared
    ) -> list[str]:
        """What is wrong with how a command ended that met a full or faulty disk."""
        errors = [line for line in ended.err.splitlines() if line.startswith(("error: ", "internal error: "))]
        faults = []
        if "Traceback" in ended.err:
            faults.append(f"a traceback: {ended.err[-600:]}")
        if ended.code == 0:
            if difference := _difference(compared(self.after), compared(now)):
                faults.append(f"ended with 0 without having done its work: {difference}")
        elif ended.code == 1 and point.kind == "eio":  # the other parts of its work are done, into other files
            if not any(reason in ended.out + ended.err for reason in _REASONS[point.kind]):
                faults.append(f"does not say why: {ended.out[-400:]}{ended.err[-400:]}")
        elif ended.code != 2:
            faults.append(f"ended with {ended.code}: {ended.err[-300:]}")
        elif len(errors) != 1 or not errors[0].startswith("error: "):
            faults.append(f"not one error line: {ended.err[-400:]}")
        elif not any(reason in errors[0] for reason in _REASONS[point.kind]):
            faults.append(f"does not say why: {errors[0]}")
        elif point.kind == "eio" and at is not None and not _names(errors[0], at.path):
            faults.append(f"names neither {at.path} nor its folder: {errors[0]}")
        elif not any(part in errors[0] for part in ("run", "tmp", "ablation", "pages", "second", "cache")):
            faults.append(f"names no path: {errors[0]}")
        return faults

    def _set_aside(self, name: str, ended: Ended, point: Point) -> bool:
        """Whether a file of the user's waits in a bundle's folder of debris for the next export, which a command that could say so says."""
        path = self.root / name
        for folder in self.root.rglob(".*.tmp"):
            bundle = folder.parent / folder.name.split(".")[1]
            if folder.is_dir() and path.is_relative_to(bundle):
                waiting = folder / path.relative_to(bundle)
                same = waiting.is_dir() or (waiting.is_file() and waiting.read_text() == f"the user's {name}\n")
                if same and (point.kind in ("kill", "torn") or str(folder) in ended.err):
                    return True
        return False

    def _run(self, arguments: Sequence[str], point: Point | None = None) -> Ended:
        return self.server.run(self.root, list(arguments), *((point.kind, point.n) if point else ()))

    def _reset(self) -> None:
        shutil.rmtree(self.root)
        shutil.copytree(self.template, self.root, symlinks=True)

    def _well(self, ended: Ended) -> None:
        assert ended.code == 0, f"undisturbed, {self.case.name} ends with {ended.code}: {ended.err}"


def _went_on_without_the_cache(ended: Ended, point: Point, at: Change | None) -> bool:
    """Whether the faulty disk was met in the cache of images, and the command did its work without it, which is no error."""
    return point.kind == "eio" and ended.code == 0 and at is not None and at.path.startswith("cache/")


def _everything(outcome: dict[str, str]) -> dict[str, str]:
    return outcome


def _without_the_cache(outcome: dict[str, str]) -> dict[str, str]:
    """Leave out the cache of images, and where a run records the note that it could not be written."""
    notes = ("data/splits.json", "data/stage.json")
    return {name: what for name, what in outcome.items() if not name.startswith("cache/") and not name.endswith(notes)}


def _names(error: str, path: str) -> bool:
    """Whether a message names a file, what it is a temporary file of, or the folder that it is in or below."""
    target = re.sub(r"(^|/)\.([^/]+)\.[a-z0-9_]{8}\.tmp(?=/|$)", r"\1\2", path)
    known = [Path(path), Path(target), *Path(target).parents]
    names = [name.as_posix().removeprefix("work/") for name in known]
    return any(name in error for name in names if name not in (".", "work"))


def spread(found: Sequence[Change], count: int, seed: int) -> list[Change]:
    """Some of many changes: one of each pattern as far as `count` goes, the rest drawn from a seed; in order."""
    if count >= len(found):
        return list(found)
    chance = random.Random(seed)
    groups: dict[str, list[Change]] = {}
    for change in found:
        groups.setdefault(change.pattern, []).append(change)
    first = [chance.choice(group) for group in groups.values()]
    if len(first) >= count:
        chosen = chance.sample(first, count)
    else:
        rest = [change for change in found if change not in first]
        chosen = first + chance.sample(rest, count - len(first))
    return sorted(chosen, key=lambda change: change.n)


def _difference(expected: dict[str, str], found: dict[str, str]) -> str:
    """How two folders differ, in a line."""
    parts = {
        "missing": sorted(expected.keys() - found.keys()),
        "left over": sorted(found.keys() - expected.keys()),
        "different": sorted(name for name in expected.keys() & found.keys() if expected[name] != found[name]),
    }
    return "; ".join(f"{what}: {', '.join(names[:4])} ({len(names)})" for what, names in parts.items() if names)
