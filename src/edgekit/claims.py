"""Work that several processes share, on one machine or many: who does which part, and what came of it.

The storage is one of Optuna's (SQLite, PostgreSQL, MySQL, or a journal file), so its dashboard shows the work as it goes on. A kind of work is
a study, and a part of it a trial with the part's key. Whoever wants a part adds a running trial; of several trials of one key, the one with the
lowest number has it, which the storage numbers without gaps or repetitions. So no two processes do the same part, and no server is needed.

A process that died loses its claim: on the machine where it ran at once, elsewhere when its trial has not been touched for `SILENT_SECONDS`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from edgekit.errors import EdgekitError, RuntimeMissing
from edgekit.locks import locked

if TYPE_CHECKING:
    import optuna

BEAT_SECONDS = 10.0  # between two signs of life of a claim
SILENT_SECONDS = 90.0  # without a sign of life, a claim of another machine is released
_DATABASES = ("sqlite", "postgresql", "mysql", "mariadb", "mssql", "oracle")
_LOCKED_SECONDS = 120.0  # that SQLite waits for another process to finish writing
_POLL_SECONDS = 1.0  # while others do the last parts
_KEY, _OWNER, _BEAT = "key", "owner", "beat"


class StorageError(EdgekitError):
    """The shared storage cannot be opened, read or written."""


def open_storage(place: str) -> optuna.storages.BaseStorage:
    """Open a storage, and make it where it is a file that does not exist yet.

    Args:
        place: a database's address (`sqlite:///search.db`, `postgresql://…`), the path of a SQLite file (.db), or that of a journal file (.log).

    Raises:
        RuntimeMissing: Optuna is not installed.
        StorageError: the place is not of one of these forms, or cannot be opened.
    """
    if importlib.util.find_spec("optuna") is None:
        raise RuntimeMissing("optuna is not installed", "install edgekit's wheel with the extra [search]")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    scheme, separator, rest = place.partition("://")
    file = None
    options: dict[str, Any] = {"pool_pre_ping": True}
    if not separator and place.endswith((".db", ".sqlite")):
        import sqlite3

        # The path is given to SQLite itself: releases of SQLAlchemy read % and ? in an address differently, and Optuna braces.
        file, scheme, separator, rest = Path(place), "sqlite", "://", "/storage.db"
        options = {"creator": partial(sqlite3.connect, place, timeout=_LOCKED_SECONDS, check_same_thread=False)}
    elif scheme == "sqlite":
        file = Path(rest.removeprefix("/"))
        options = {"connect_args": {"timeout": _LOCKED_SECONDS}}
    if separator and scheme.partition("+")[0] in _DATABASES:
        with _reported(place), _creating(file):
            database = optuna.storages.RDBStorage(f"{scheme}://{rest}", engine_kwargs=options)
            return optuna.storages.get_storage(database)
    if not separator and place.endswith((".log", ".journal")):
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage

        with _reported(place), _creating(Path(place)):
            return JournalStorage(JournalFileBackend(place, lock_obj=JournalFileOpenLock(place)))
    raise StorageError(
        f"--storage {_without_password(place)}: not a storage",
        "give a database (sqlite:///search.db, postgresql://…, mysql://…), or a file that ends in .db or .log",
    )


@contextmanager
def _creating(file: Path | None) -> Iterator[None]:
    """Let one process at a time make the tables of a new file."""
    if file is None or str(file) == ":memory:":
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with locked(file.with_name(f".{file.name}.lock"), wait=True):
        yield


@contextmanager
def _reported(place: str) -> Iterator[None]:
    """Turn whatever a storage raises into one line."""
    try:
        yield
    except (EdgekitError, KeyboardInterrupt):
        raise
    except Exception as error:  # Optuna's own, SQLAlchemy's, a driver's, the file system's
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise StorageError(
            f"{_without_password(place)}: the storage cannot be used: {_without_password(lines[0])}",
            "check its address and that it can be written, or give another --storage",
        ) from error


def _without_password(text: str) -> str:
    return re.sub(r"://([^:/@\s]*):[^@\s]*@", r"://\1:…@", text)


@dataclass(frozen=True)
class Owner:
    """A process that holds claims. `namespace` tells containers of one machine apart; `began` tells a process from a later one of its number."""

    host: str
    boot: str
    namespace: str
    pid: int
    began: str

    @classmethod
    def this(cls) -> Owner:
        """Return the owner that this process is."""
        return cls(socket.gethostname(), *_machine(), os.getpid(), _began(os.getpid()) or "")

    @property
    def ended(self) -> bool | None:
        """Whether the process has ended; None if it runs where that cannot be seen from here."""
        if (self.host, self.boot, self.namespace) != (socket.gethostname(), *_machine()):
            return None
        if self.began:
            return _began(self.pid) != self.began
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return None
        return False


def _machine() -> tuple[str, str]:
    """Return the identifier of this machine since it was started, and that of the namespace of its process numbers; empty if unknown."""
    boot = namespace = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return boot, namespace


def _began(pid: int) -> str | None:
    """Return when a process of this machine began, in clock ticks (Linux); None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


class SharedWork:
    """The shared work of one storage.

    Args:
        place: see `open_storage`.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.storage = open_storage(place)
        self.owner = Owner.this()

    def kind(self, name: str) -> Kind:
        """Return the work of one kind: `name` is the same in every process that shares it.

        Raises:
            StorageError: the storage cannot be used.
        """
        import optuna

        for tries_left in (2, 1, 0):  # another process may make the same study at this moment
            try:
                with _reported(self.place):
                    study = optuna.create_study(
                        storage=self.storage, study_name=name, direction="maximize", load_if_exists=True
                    )
                return Kind(self, study)
            except StorageError:
                if not tries_left:
                    raise
                time.sleep(0.2)
        raise AssertionError  # not reached


@dataclass
class Kind:
    """The work of one kind: parts by their keys.

    Args:
        work: the storage's.
        study: Optuna's study.
    """

    work: SharedWork
    study: optuna.Study
    _seen: dict[int, tuple[Any, float]] = field(
        default_factory=dict
    )  # of other machines' claims: the last sign of life, and when

    def done(self) -> dict[str, dict[str, Any]]:
        """Return what came of every finished part, by its key."""
        from optuna.trial import TrialState

        holders = self._holders()
        return {
            key: {**trial.user_attrs["result"]} for key, trial in holders.items() if trial.state == TrialState.COMPLETE
        }

    def held_by(self) -> dict[str, str]:
        """Return the machines that work on parts now, by key; claims of processes that have died are released first."""
        from optuna.trial import TrialState

        self._release_dead()
        running = {k: t for k, t in self._holders().items() if t.state == TrialState.RUNNING}
        return {key: trial.user_attrs[_OWNER]["host"] for key, trial in running.items()}

    def claim(self, keys: Sequence[str]) -> Claim | None:
        """Claim the first of these parts that is neither finished nor claimed; None if there is none.

        Raises:
            StorageError: the storage cannot be used.
        """
        from optuna.trial import TrialState, create_trial

        self._release_dead()
        taken = self._holders()
        for key in keys:
            if key in taken:
                continue
            attributes = {_KEY: key, _OWNER: self.work.owner.__dict__, _BEAT: 0}
            with _reported(self.work.place):
                template = create_trial(state=TrialState.RUNNING, user_attrs=attributes)
                mine = self.work.storage.create_new_trial(self.study._study_id, template_trial=template)
            if self._holders()[key]._trial_id == mine:
                return Claim(self, key, mine)
            self._end(mine)  # another process was faster
        return None

    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        with _reported(self.work.place):
            return self.study.get_trials(deepcopy=False)

    def _holders(self) -> dict[str, optuna.trial.FrozenTrial]:
        """Return the trial that has each part: of those that were not given up, the one with the lowest number."""
        from optuna.trial import TrialState

        holders: dict[str, optuna.trial.FrozenTrial] = {}
        for trial in sorted(self._trials(), key=lambda trial: trial.number):
            if trial.state != TrialState.FAIL and _KEY in trial.user_attrs:
                holders.setdefault(trial.user_attrs[_KEY], trial)
        return holders

    def _release_dead(self) -> None:
        from optuna.trial import TrialState

        for trial in self._trials():
            if trial.state == TrialState.RUNNING and _OWNER in trial.user_attrs and self._is_dead(trial):
                self._end(trial._trial_id)

    def _is_dead(self, trial: optuna.trial.FrozenTrial) -> bool:
        ended = Owner(**trial.user_attrs[_OWNER]).ended
        if ended is not None:
            return ended
        beat, now = trial.user_attrs.get(_BEAT), time.monotonic()  # this machine's clock alone: others may be wrong
        last, since = self._seen.get(trial._trial_id, (None, now))
        if last != beat:
            last, since = beat, now
        self._seen[trial._trial_id] = (last, since)
        return now - since > SILENT_SECONDS

    def _end(self, trial_id: int) -> None:
        """Give a trial up; its part can be claimed again."""
        import optuna

        with suppress(optuna.exceptions.UpdateFinishedTrialError), _reported_unless_finished(self.work.place):
            self.work.storage.set_trial_state_values(trial_id, optuna.trial.TrialState.FAIL)


@contextmanager
def _reported_unless_finished(place: str) -> Iterator[None]:
    import optuna

    try:
        with _reported(place):
            yield
    except StorageError as error:
        if isinstance(error.__cause__, optuna.exceptions.UpdateFinishedTrialError):
            raise error.__cause__ from None
        raise


class Claim:
    """A part that this process works on. A context manager: a part that was not finished at its end can be claimed again.

    Args:
        kind: of the work.
        key: of the part.
        trial_id: Optuna's number of it.
    """

    def __init__(self, kind: Kind, key: str, trial_id: int) -> None:
        self.kind, self.key = kind, key
        self._trial_id = trial_id
        self._finished = False
        self._over = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Claim:
        self._beating.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._beating.join()
        if not self._finished:
            try:
                self.kind._end(self._trial_id)
            except StorageError:
                if error is None:
                    raise

    def finish(self, result: dict[str, Any], value: float | None = None, steps: dict[int, float] | None = None) -> bool:
        """Record what came of the part.

        Args:
            result: anything that is JSON.
            value: the number that Optuna shows for it; higher is better. None: 0.
            steps: intermediate values, for Optuna's plots.

        Returns:
            False if this process was taken for dead meanwhile and another one has claimed the part: the result is not recorded.

        Raises:
            StorageError: the storage cannot be used.
        """
        import optuna

        storage = self.kind.work.storage
        try:
            with _reported_unless_finished(self.kind.work.place):
                for step, number in (steps or {}).items():
                    storage.set_trial_intermediate_value(self._trial_id, step, number)
                storage.set_trial_user_attr(self._trial_id, "result", result)
                storage.set_trial_state_values(self._trial_id, optuna.trial.TrialState.COMPLETE, [value or 0.0])
        except optuna.exceptions.UpdateFinishedTrialError:
            self._finished = True
            return False
        self._finished = True
        return True

    def _beat(self) -> None:
        count = 0
        while not self._over.wait(BEAT_SECONDS):
            count += 1
            with suppress(Exception):  # a storage that is away for a moment; `finish` reports it if it stays away
                self.kind.work.storage.set_trial_user_attr(self._trial_id, _BEAT, count)


def share(
    kind: Kind,
    keys: Sequence[str],
    make: Callable[[str], tuple[dict[str, Any], float | None]],
    on_done: Callable[[str, dict[str, Any], bool], None] = lambda key, result, here: None,
    on_wait: Callable[[dict[str, str]], None] = lambda held_by: None,
) -> dict[str, dict[str, Any]]:
    """Do parts together with other processes, until all are done; each part is done by one of them.

    Args:
        kind: of the work.
        keys: of the parts, in the order of their importance.
        make: does a part; returns its result, as JSON, and the number that Optuna shows for it.
        on_done: called once for each part with its result, and whether this process did it now.
        on_wait: called when others do the last parts, with their machines by key; once for each such set.

    Returns:
        The results of all parts.

    Raises:
        StorageError: the storage cannot be used. What `make` raises passes; its part can be claimed again.
    """
    told: set[str] = set()
    waited_for: dict[str, str] = {}
    while True:
        done = {key: result for key, result in kind.done().items() if key in keys}
        for key in [key for key in keys if key in done and key not in told]:
            told.add(key)
            on_done(key, done[key], False)
        missing = [key for key in keys if key not in done]
        if not missing:
            return done
        claim = kind.claim(missing)
        if claim is None:
            held = {key: host for key, host in kind.held_by().items() if key in missing}
            if held and held != waited_for:
                waited_for = held
                on_wait(held)
            time.sleep(_POLL_SECONDS)
            continue
        with claim:
            result, value = make(claim.key)
            if claim.finish(result, value):
                told.add(claim.key)
                on_done(claim.key, result, True)


__all__ = ["Claim", "Kind", "Owner", "SharedWork", "StorageError", "open_storage", "share"]
