"""A fixed sample of every format, and the harness itself: what it must notice."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import EdgekitError
from edgekit.recipe import parse

from .driver import fuzz
from .judge import LONGEST_MESSAGE, Watch, judged
from .mutators import changed_bytes, changed_tree, json_bytes

# Cases of each format, which take a few seconds: `make fuzz` runs as many as there is time for.
SAMPLE = {"recipes": 250, "bundles": 120, "images": 250, "checkpoints": 60, "results": 60, "labels": 250, "devices": 60}


@pytest.mark.parametrize("kind", SAMPLE)
def test_damaged_and_forged_files_are_read_or_refused(kind: str, tmp_path: Path) -> None:
    tally = fuzz(kind, tmp_path, cases=SAMPLE[kind])
    assert tally.clean, "\n".join(
        f"{where}\n{found['cases']}\n{found['detail']}" for where, found in tally.findings.items()
    )
    assert tally.cases == SAMPLE[kind]
    assert min(tally.accepted, tally.refused) > 5  # the changes are neither all harmless nor all alike


_PLAIN = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary().map(lambda b: b.decode("latin-1"))
)
_VALUE = st.recursive(
    _PLAIN,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)
_PLACES = [
    "name", "seed", "data", "data.labels", "data.mean", "data.pixel_range", "pretrain", "pretrain.method", "pretrain.optimizer.lr",
    "pretrain.augment",
    "finetune.optimizer", "distill.teachers", "distill.student", "hardware.devices", "monitor", "no.such.key",
]  # fmt: skip


@given(st.sampled_from(_PLACES), _VALUE)
def test_any_value_anywhere_in_a_recipe(place: str, value: object) -> None:
    """What is not among the values that the mutators know; hypothesis makes what it finds small."""
    *parents, last = place.split(".")
    content: dict[str, Any] = {}
    node = content
    for name in parents:
        node = node.setdefault(name, {})
    node[last] = value
    outcome = judged(lambda: parse(content))
    assert outcome.kind != "finding", outcome.detail


def test_a_case_is_its_number() -> None:
    def made(number: int) -> tuple[bytes, bytes]:
        draws = random.Random(f"0/x/{number}")
        return changed_bytes(draws, bytes(500), [b"other" * 50]), json_bytes(
            draws, changed_tree(draws, {"a": [1, {"b": None}]})
        )

    assert [made(i) for i in range(50)] == [made(i) for i in range(50)]
    assert len({made(i) for i in range(50)}) > 40


def raising(error: BaseException) -> object:
    raise error


@pytest.mark.parametrize(
    ("error", "kind", "where"),
    [
        (EdgekitError("wrong", "mend it"), "refused", ""),
        (KeyError("x"), "finding", "KeyError"),
        (OSError(5, "x"), "finding", "OSError"),
        (RecursionError(), "finding", "RecursionError"),
        (MemoryError(), "finding", "MemoryError"),
        (SystemExit(0), "finding", "SystemExit"),
        (EdgekitError(""), "finding", "an error without a message"),
        (EdgekitError("set weights_only=False"), "finding", "a message for developers"),
    ],
)
def test_what_counts_as_a_finding(error: BaseException, kind: str, where: str) -> None:
    outcome = judged(lambda: raising(error))
    assert outcome.kind == kind
    assert where in outcome.where


def test_what_is_printed_and_what_is_touched_counts_too(tmp_path: Path) -> None:
    assert judged(lambda: print("fine\nlines")).kind == "accepted"
    assert "prints" in judged(lambda: print("\x1b[2J")).where
    assert "prints" in judged(lambda: print("a\u202eb", file=sys.stderr)).where
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").touch()
    watch = Watch((f"{tmp_path / 'in'}{os.sep}",), str(tmp_path / "secret"))
    sys.addaudithook(watch.hook)  # stays, and does nothing while it is not active
    acts = {
        "inside": lambda: (tmp_path / "in" / "x").write_text("x"),
        "outside": lambda: (tmp_path / "x").write_text("x"),
        "through a link": lambda: (tmp_path / "in" / "link" / "y").write_text("x"),
        "renamed": lambda: (tmp_path / "in" / "x").rename(tmp_path / "z"),
        "read": (tmp_path / "secret").read_text,
        "program": lambda: os.system("true"),
    }
    (tmp_path / "in" / "link").symlink_to(tmp_path)
    assert {name: judged(act, watch).kind for name, act in acts.items()} == {
        "inside": "accepted",
        **dict.fromkeys([*acts][1:], "finding"),
    }


def test_a_message_has_a_bound_whatever_is_in_it() -> None:
    """A name of control characters was shortened first, and then written with six characters for each."""
    for text in ("x" * 10**6, "\x00" * 10**6, "\u202e" * 3999):
        error = EdgekitError(f"name {text}", f"hint {text}")
        assert len(str(error)) <= LONGEST_MESSAGE
        assert judged(lambda error=error: raising(error)).kind == "refused"
