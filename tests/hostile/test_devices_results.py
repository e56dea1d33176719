"""Files and results that a device makes up: they land in their folder or nowhere, and are results of this bench or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgekit.bench.remote import replies
from edgekit.bench.remote.results import Inbox, check_result
from edgekit.bundle import Bundle
from edgekit.errors import RemoteError
from edgekit.result import Result
from tests.helpers.hostile_device import changed_result
from tests.helpers.malformed_replies import ABSURD, DEEP, DIGEST

UNFIT = {
    "no JSON": lambda r: b"{",
    "empty": lambda r: b"",
    "a list": lambda r: b"[]",
    "nested deep": lambda r: DEEP.encode(),
    "cut off": lambda r: r[:-20],
    "NaN": lambda r: changed_result(r, cv=float("nan")),
    "infinite": lambda r: changed_result(r, mean_ms=float("inf")),
    "too large to format": lambda r: changed_result(r, cv=1e300),
    "a batch of 400 digits": lambda r: changed_result(r, batch=ABSURD),
    "a sample of 400 digits": lambda r: changed_result(r, samples_ns=[ABSURD]),
    "a negative sample": lambda r: changed_result(r, samples_ns=[-5] * 20),
    "samples of text": lambda r: changed_result(r, samples_ns=["x"] * 100_000),
    "a bound without a rate": lambda r: changed_result(r, bound_ms=5.0),
    "another bundle's": lambda r: changed_result(r, bundle_digest="1" * 64),
    "another variant's": lambda r: changed_result(r, variant="\x1b[2Jother"),
    "a flood of warnings": lambda r: changed_result(r, warnings=["beware"] * 10_000),
    "a million texts": lambda r: changed_result(r, conditions={"x": [""] * 600_000}),
    "a text of a megabyte": lambda r: changed_result(r, runtime_version="1" * 1_000_000),
    "an unknown key": lambda r: changed_result(r, more=1),
    "another kind": lambda r: changed_result(r, kind="ablation"),
    "an evaluation": lambda r: json.dumps({**json.loads(r), "measurement": {
        "kind": "transfer", "run": "x", "weights_sha256": "0", "sets": []}}).encode(),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNFIT)
def test_results_that_are_none_of_this_bench(kind: str, measured: bytes, awkward_bundle: Path) -> None:
    opened = Bundle.open(awkward_bundle)
    assert check_result(measured, "a.json", opened, "d").measurement.kind == "latency"
    with pytest.raises(RemoteError, match=r"^d: sends ") as error:
        check_result(UNFIT[kind](measured), "a.json", opened, "d")
    assert len(str(error.value)) < 600


def test_a_result_without_some_figures_is_shown_without_them(measured: bytes) -> None:
    """Older versions knew fewer percentiles."""
    percentiles = json.loads(measured)["measurement"]["percentiles_ms"]
    percentiles.pop("p99.9")
    result = Result.parse(changed_result(measured, percentiles_ms=percentiles), "a.json")
    assert result.measurement.percentiles_ms["p99.9"] is None  # type: ignore[union-attr]


PATHS = [
    "/etc/passwd", "../x.json", "results/../../x.json", "results/a/../../../x.json", "results/\x1b[2J.json", "results/a\nb.json",
    "results/" + "a" * 2000 + ".json",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_a_file_lands_in_its_folder_or_nowhere(path: str, tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="names a file outside its folder"):
        Inbox(tmp_path / "out", "d", ["stdout", path])
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_not_edgekits_are_not_asked_for(tmp_path: Path) -> None:
    asked = ["stdout", "stderr", "results/a.json", "results/.bashrc", "results/a.sh", "results/b/c.json", "x.json"]
    asked += ["results/a-loadgen-logs/mlperf_log_summary.txt", "results/a-loadgen-logs/evil.txt", "results/a.json"]
    with Inbox(tmp_path / "out", "d", asked) as inbox:
        assert inbox.names == ["stdout", "results/a.json", "results/a-loadgen-logs/mlperf_log_summary.txt"]
        assert len(inbox.others) == 6
        unknown = replies.FileEvent(event="data", path="results/b.json", bytes=1, sha256=DIGEST)
        with pytest.raises(RemoteError, match="that was not requested"), inbox.receive(unknown):
            pass
        huge = replies.FileEvent(event="data", path="stdout", bytes=1 << 40, sha256=DIGEST)
        with pytest.raises(RemoteError, match="is too large to fetch"), inbox.receive(huge):
            pass
    assert not (tmp_path / "out").exists(), "nothing was kept, so that no folder is"


def test_what_a_killed_fetch_left_goes_and_other_files_stay(tmp_path: Path) -> None:
    output = tmp_path / "out"
    (output / ".fetch.abcdefgh.tmp" / "results").mkdir(parents=True)
    (output / ".fetch.abcdefgh.tmp" / "results" / "a.json").write_text("{")
    (output / ".notes.tmp").write_text("mine")
    with Inbox(output, "d", ["stdout"]):
        pass
    assert [path.name for path in output.iterdir()] == [".notes.tmp"]
