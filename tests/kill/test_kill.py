"""Some points of each command; `make kill` has all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kill.cases import CASES, Case
from tests.kill.server import Server
from tests.kill.shim import compiled
from tests.kill.trials import Bench, Point

_KILLS, _TORN, _FULL, _FAULTY = 4, 2, 3, 2


@pytest.fixture(scope="module")
def server(require_tool: Callable[[str, str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    server = Server(compiled(require_tool("cc", "compiles the library that counts changes"), folder), folder)
    yield server
    server.close()


@pytest.fixture
def bench(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> Bench:
    case: Case = request.param
    return Bench(case, server, tmp_path / "case")


def _faults(bench: Bench, points: list[Point]) -> list[str]:
    trials = [bench.trial(point) for point in points]
    assert all(trial.at is not None for trial in trials)
    return [f"{trial.point} {trial.at}: {fault}" for trial in trials for fault in trial.faults]


# One case of some commands here; the first of others, and all cases, take long.
_FIRST = [next(case for case in CASES if case.command == name) for name in ("train", "report")]
_SLOW = [
    case
    for case in CASES
    if case.name
    in (
        "ablate, a new folder",
        "embed, a new folder",
        "export, over another bundle",
        "bench, over earlier results",
        "train, a detector from normal images",
        "train, a detector of another method",
    )
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "bench",
    [
        pytest.param(
            case, id=case.name.replace(", ", "-").replace(" ", "-"), marks=[pytest.mark.extra] if case in _SLOW else []
        )
        for case in [*_FIRST, *_SLOW]
    ],
    indirect=True,
)
def test_a_disturbed_command_loses_nothing_and_goes_on(bench: Bench) -> None:
    points = [
        point
        for kind, count in (("kill", _KILLS), ("torn", _TORN), ("full", _FULL), ("eio", _FAULTY))
        for point in bench.points(kind, count)
    ]
    assert len(points) == _KILLS + _TORN + _FULL + _FAULTY or len(bench.points("torn", 9)) < _TORN
    assert _faults(bench, points) == []


_OVER_A_BUNDLE = next(case for case in CASES if case.name == "export, over another bundle")


@pytest.mark.extra
@pytest.mark.parametrize("bench", [_OVER_A_BUNDLE], ids=["export"], indirect=True)
def test_the_users_files_in_a_bundle_survive_the_exchange(bench: Bench) -> None:
    """Killed between the exchange of two bundles and the return of the user's files, the next export found its bundle complete and left them."""
    at = next(change.n for change in bench.changes if change.operation == "exchange")
    moved = [
        change.n
        for change in bench.changes
        if change.n > at and change.operation == "rename" and "/export/" in change.path
    ]
    assert len(moved) == 2
    assert _faults(bench, [Point(kind, n) for kind in ("kill", "full") for n in moved]) == []


_RETRAIN = next(case for case in CASES if case.name == "train, a complete run with another recipe")


@pytest.mark.slow
@pytest.mark.parametrize("bench", [_RETRAIN], ids=["train"], indirect=True)
def test_what_a_complete_stage_no_longer_needs_is_removed_later(bench: Bench) -> None:
    """Killed between a stage's record and the removal of its checkpoint, the checkpoint stayed for ever."""
    unlinked = [
        change.n
        for change in bench.changes
        if change.operation == "unlink" and change.path.endswith(("started.json", "last.ckpt"))
    ]
    assert unlinked
    assert _faults(bench, [Point("kill", n) for n in unlinked]) == []
