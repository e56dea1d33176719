"""What a measuring process writes is what the process that started it reads."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from edgekit.bench.golden import Proof
from edgekit.bench.measure import Timed
from edgekit.bench.outcome import ProfileOutcome, RoundOutcome, RoundTimeline, Watch
from edgekit.runtimes.session import ProfiledNode

PROOF = Proof(1e-6, 1.0, "", {"embedding_max_abs_diff": 0.1, "embedding_cosine": 0.999})
ROUND = RoundOutcome(
    runtime_version="1.2", settings={"threads": "1"}, affinity=[0, 2], golden=PROOF, samples_ns=[3, 1], warmup_runs=1, settled=True,
    interrupted=False, began_ns=5, ended_ns=12, streams=1, stages_ms={"import": 1.5}, peak_rss_bytes=7, device_memory_bytes=None,
    conditions={"throttled": None, "clock_mhz": {"before": 1.0, "after": None}}, loadgen={"version": "5", "summary": {"p90": 1}},
)  # fmt: skip


def test_a_round_is_read_as_it_was_written() -> None:
    read = RoundOutcome.read(json.loads(json.dumps(asdict(ROUND))))
    assert read == ROUND
    assert isinstance(read.golden, Proof)
    assert read.elapsed_ns == 7


def test_a_profile_is_read_as_it_was_written() -> None:
    layers = [ProfiledNode("/conv", "Conv", 3, 700), ProfiledNode("/head", "Gemm", 3, 100)]
    profile = ProfileOutcome(
        runtime_version="1", settings={}, affinity=[], golden=PROOF, samples_ns=[9, 8], layers=layers
    )
    read = ProfileOutcome.read(json.loads(json.dumps(asdict(profile))))
    assert read == profile
    assert all(isinstance(layer, ProfiledNode) for layer in read.layers)


def test_a_field_that_no_round_has_is_refused() -> None:
    with pytest.raises(TypeError, match="sample_ns"):
        RoundOutcome.read({**asdict(ROUND), "sample_ns": []})


def test_a_round_has_all_that_a_scenario_saw() -> None:
    timed = Timed([3, 1], 1, True, False, 5, 12)
    assert {name: getattr(ROUND, name) for name in vars(timed)} == vars(timed)


def test_what_was_seen_meanwhile_is_added_to_a_new_outcome() -> None:
    line = RoundTimeline([0.0], 0.001, [1.0], [None], [None], [None], [None])
    watched = replace(ROUND, watch=Watch(line, joules=2.0, seconds=1.0))
    assert ROUND.watch is None
    assert watched.watch is not None
    assert watched.watch.timeline.clock_mhz == [1.0]
