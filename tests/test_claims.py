"""Shared work: each part is done once, whoever dies meanwhile; the storages are real, and so are the processes."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from edgekit import claims
from edgekit.claims import Kind, Owner, SharedWork, StorageError, share
from tests.helpers.patience import until

PLACES = ["work.db", "work.log"]
WORKER = """
import sys
from edgekit.claims import SharedWork, share
place, log, *keys = sys.argv[1:]
def make(key):
    with open(log, "a") as stream:
        stream.write(key + "\\n")
    return {"by": sys.argv[2]}, 0.5
results = share(SharedWork(place).kind("parts"), keys, make)
assert sorted(results) == sorted(keys)
"""
HOLDER = """
import sys, time
from edgekit.claims import SharedWork
claim = SharedWork(sys.argv[1]).kind("parts").claim(["a"])
with claim:
    print("claimed", flush=True)
    time.sleep(600)
"""


def finished(kind: Kind) -> Counter[str]:
    """How often each part was finished."""
    from optuna.trial import TrialState

    trials = kind.study.get_trials(states=[TrialState.COMPLETE])
    return Counter(trial.user_attrs["key"] for trial in trials)


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / request.param)


def test_two_processes_do_each_part_once(place: str, tmp_path: Path) -> None:
    log, keys = tmp_path / "done", [f"part {i}" for i in range(12)]
    started = [
        subprocess.Popen([sys.executable, "-c", WORKER, place, str(log), *order]) for order in (keys, keys[::-1])
    ]
    assert [process.wait() for process in started] == [0, 0]
    assert Counter(log.read_text().splitlines()) == Counter(keys)
    assert finished(SharedWork(place).kind("parts")) == Counter(keys)


def test_a_part_of_a_killed_process_is_free_at_once_and_that_of_a_living_one_is_not(place: str) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, place], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "claimed\n"
    kind = SharedWork(place).kind("parts")
    assert kind.claim(["a"]) is None
    assert list(kind.held_by()) == ["a"]
    holder.kill()
    holder.wait()
    claim = kind.claim(["a"])
    assert claim is not None
    with claim:
        assert claim.finish({"found": 1}, 0.25)
    assert kind.done() == {"a": {"found": 1}}
    assert kind.claim(["a"]) is None
    holder.stdout.close()


def test_a_part_that_fails_or_is_interrupted_can_be_claimed_again(place: str) -> None:
    kind = SharedWork(place).kind("parts")
    for error in (ValueError, KeyboardInterrupt):

        def fail(key: str, error: type[BaseException] = error) -> tuple[dict[str, object], None]:
            raise error

        with pytest.raises(error):
            share(kind, ["a"], fail)
        assert kind.held_by() == {}
    told: list[tuple[str, bool]] = []
    made = share(kind, ["a"], lambda key: ({"n": 1}, None), lambda key, result, here: told.append((key, here)))
    again = share(kind, ["a"], fail, lambda key, result, here: told.append((key, here)))
    assert made == again == {"a": {"n": 1}}
    assert told == [("a", True), ("a", False)]


def test_of_two_claims_of_one_part_the_first_holds(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when two processes look at the same moment: both see the part free, and both add a trial."""
    first, second = SharedWork(place).kind("parts"), SharedWork(place).kind("parts")
    held = first.claim(["a"])
    real, calls = Kind._holders, []

    def late(self: Kind) -> dict[str, object]:
        calls.append(self)
        return {} if len(calls) == 1 else real(self)  # the first look was before the other's claim

    monkeypatch.setattr(Kind, "_holders", late)
    assert second.claim(["a"]) is None
    assert held is not None
    with held:
        assert held.finish({})
    assert finished(first) == {"a": 1}


def test_a_silent_claim_of_another_machine_is_released_and_its_late_result_is_not_taken(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    away, here = SharedWork(place), SharedWork(place)
    away.owner = Owner("elsewhere", "boot", "namespace", 1, "1")
    lost = away.kind("parts").claim(["a"])
    kind = here.kind("parts")
    assert lost is not None
    assert kind.claim(["a"]) is None  # it may be at work
    monkeypatch.setattr(claims, "SILENT_SECONDS", -1.0)
    claim = kind.claim(["a"])
    assert claim is not None
    with lost:
        assert not lost.finish({"by": "the one that was taken for dead"})
    with claim:
        assert claim.finish({"by": "the other"})
    assert kind.done() == {"a": {"by": "the other"}}


def test_signs_of_life_keep_a_claim(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.01)
    away, here = SharedWork(place), SharedWork(place)
    away.owner = Owner("elsewhere", "boot", "namespace", 1, "1")
    kind = here.kind("parts")
    claim = away.kind("parts").claim(["a"])
    assert claim is not None
    with claim:
        trial = claim._trial_id
        until(lambda: here.storage.get_trial(trial).user_attrs["beat"] > 2)
        kind.held_by()
        before = kind._seen[trial]
        until(lambda: here.storage.get_trial(trial).user_attrs["beat"] > before[0])
        kind.held_by()
        assert kind._seen[trial][1] > before[1], "the silence begins anew with every sign"


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("nothing", "--storage nothing: not a storage"),
        ("ftp://host/x", "--storage ftp://host/x: not a storage"),
        ("sqlite:////proc/nowhere/x.db", "x.db"),
        ("postgresql://me:secret@127.0.0.1:1/x", "cannot be used"),
    ],
)
def test_a_storage_that_cannot_be_used_is_one_line_without_the_password(place: str, told: str) -> None:
    with pytest.raises((StorageError, OSError)) as error:
        SharedWork(place).kind("parts")
    assert told in str(error.value)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_with_an_awkward_name_holds_a_storage(tmp_path: Path) -> None:
    folder = tmp_path / "what's 100% it? #1 %20 {0}; ü"
    folder.mkdir()
    for name in PLACES:
        SharedWork(str(folder / name)).kind("parts")
        assert (folder / name).is_file()
    assert list(tmp_path.iterdir()) == [folder]


def test_a_damaged_storage_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StorageError, match="the storage cannot be used"):
        SharedWork(str(tmp_path / "x.db")).kind("parts")
