"""Measuring in turns: real benches of a real bundle, here and over SSH; what was measured once is not measured again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from edgekit.bench.choose import choose
from edgekit.bench.remote import device as remote_device
from edgekit.bundle import Bundle, write_manifest
from edgekit.errors import EdgekitError, RemoteError
from edgekit.result import Result
from edgekit.search.budget import Limit, parse_budgets
from edgekit.search.devices import DeviceGone, OverSsh, ThisMachine, Turn, device_of
from edgekit.search.measure import MeasuredBundle, Turns, in_turns, turn_seconds
from tests.helpers.ssh_server import SshServer
from tests.helpers.tiny_bundle import make_bundle

AMPLE = parse_budgets(["p50 < 1000 s"])
SECONDS = 0.02


class Counting(ThisMachine):
    """This machine, which notes every turn, and stops before one of them if asked to."""

    def __init__(self, stop_before: int = 0) -> None:
        super().__init__(threads=1)
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        self.stop_before = stop_before

    def turn(self, bundle: Bundle, variants: Sequence[str], seconds: float, output: Path) -> Turn:
        if len(self.asked) + 1 == self.stop_before:
            raise KeyboardInterrupt
        self.asked.append((bundle.manifest.name, tuple(variants)))
        return super().turn(bundle, variants, seconds, output)


class Disturbed(Counting):
    """This machine, whose first two turns are slow but for one run, as on a busy machine; each turn has eleven samples."""

    def turn(self, bundle: Bundle, variants: Sequence[str], seconds: float, output: Path) -> Turn:
        measured = super().turn(bundle, variants, seconds, output)
        for path in measured.results.values():
            result = Result.read(path)
            samples = result.measurement.samples_ns[:11]  # type: ignore[union-attr]
            if len(self.asked) <= 2:
                samples = [samples[0], *[sample * 10**9 for sample in samples[1:]]]
            result.measurement.samples_ns = samples  # type: ignore[union-attr]
            result.write(path)
        return measured


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "a")


def turns_of(bundle: Bundle, folder: Path, device: ThisMachine | OverSsh, limits: Sequence[Limit] = AMPLE) -> Turns:
    return Turns(bundle, folder, device, limits, SECONDS, threads=1)


def test_an_interrupted_measurement_goes_on_where_it_was(bundle: Bundle, tmp_path: Path) -> None:
    first = Counting(stop_before=2)
    with pytest.raises(KeyboardInterrupt):
        in_turns([turns_of(bundle, tmp_path, first)], 2)
    kept = {path: path.read_bytes() for path in (tmp_path / "turn-1").iterdir()}
    assert kept

    second = Counting()
    turns = turns_of(bundle, tmp_path, second)
    in_turns([turns], 2)
    assert len(second.asked) == 1, "the first turn is read"
    assert {path: path.read_bytes() for path in (tmp_path / "turn-1").iterdir()} == kept

    measured = turns.result()
    assert [v.id for v in measured.variants] == [v.id for v in bundle.manifest.variants]
    for variant in measured.variants:
        assert variant.error == ""
        assert variant.turns == 2
        files = list(tmp_path.glob(f"turn-*/{variant.id}-b1*.json"))
        samples = [s for file in files for s in Result.read(file).measurement.samples_ns]  # type: ignore[union-attr]
        assert variant.samples == len(samples)
        assert variant.p50 is not None
        assert min(samples) / 1e6 <= variant.p50 <= max(samples) / 1e6
        assert variant.golden_agreement == 1
    assert MeasuredBundle.from_content(measured.content()) == measured
    assert len(measured.within(AMPLE)) == len(measured.variants)


def test_a_turn_of_another_device_or_a_damaged_one_is_measured_again(bundle: Bundle, tmp_path: Path) -> None:
    turns_of(bundle, tmp_path, Counting()).next()
    other = Counting()
    other.name = "another"
    assert turns_of(bundle, tmp_path, other).next()
    assert len(other.asked) == 1
    [file] = list((tmp_path / "turn-1").glob(f"{bundle.manifest.variants[0].id}-b1*.json"))
    file.write_text(file.read_text()[:-100])
    again = Counting()
    again.name = "another"
    assert turns_of(bundle, tmp_path, again).next()
    assert len(again.asked) == 1


def test_what_is_far_over_the_budget_has_one_turn_and_what_is_too_large_none(bundle: Bundle, tmp_path: Path) -> None:
    device = Counting()
    slow = turns_of(bundle, tmp_path / "slow", device, parse_budgets(["p50 < 1 ns"]))
    assert not slow.complete(3)
    slow.next()
    assert slow.complete(3), "further turns would not change what is far over"
    in_turns([slow], 3)
    assert len(device.asked) == 1
    assert {v.turns for v in slow.result().variants} == {1}
    assert slow.result().within(parse_budgets(["p50 < 1 ns"])) == []

    large = turns_of(bundle, tmp_path / "large", device, parse_budgets(["size < 1 B"]))
    in_turns([large], 3)
    assert len(device.asked) == 1
    assert {v.turns for v in large.result().variants} == {0}

    sizes = sorted({v.bytes for v in bundle.manifest.variants})
    if len(sizes) > 1:  # only the small ones
        some = turns_of(bundle, tmp_path / "some", device, [Limit("size", sizes[0], True)])
        some.next()
        assert set(device.asked[-1][1]) == {v.id for v in bundle.manifest.variants if v.bytes == sizes[0]}


def test_turns_that_disagree_about_the_budget_are_followed_by_another(bundle: Bundle, tmp_path: Path) -> None:
    """After three turns 20 of 33 samples are slow, after four 20 of 44: the median is then one of the fast ones."""
    limits = parse_budgets(["p50 < 1000 s"])
    turns = turns_of(bundle, tmp_path, Disturbed(), limits)
    in_turns([turns], 3)
    assert turns.undecided()
    assert not turns.complete(3)
    assert turns.result().within(limits) == []
    again = turns_of(bundle, tmp_path, Counting(), limits)  # the three turns are read
    in_turns([again], 3, further=3)
    assert not again.undecided()
    assert again.complete(3)
    assert not again.complete(5)
    assert {v.turns for v in again.result().variants} == {4}
    assert len(again.result().within(limits)) == len(bundle.manifest.variants)


@pytest.mark.parametrize("random_weights", [True, False])
def test_a_rejected_variant_is_measured_if_its_weights_are_random(tmp_path: Path, random_weights: bool) -> None:
    made = make_bundle(tmp_path / "bundle")
    made.manifest.variants[0].status = "rejected"
    made.manifest.provenance["random_weights"] = random_weights
    write_manifest(made.path, made.manifest)
    chosen, left_out = choose(Bundle.open(made.path))
    assert (made.manifest.variants[0].id in {v.id for v in chosen}) == random_weights
    assert len(left_out) == (not random_weights)


def test_why_a_device_reports_no_energy_is_known_where_it_reports_none(bundle: Bundle, tmp_path: Path) -> None:
    turns = turns_of(bundle, tmp_path, Counting())
    assert turns.why_no_energy() == "", "nothing was measured yet"
    turns.next()
    energies = [v.energy_mj for v in turns.result().variants]
    assert bool(turns.why_no_energy()) == all(energy is None for energy in energies)


def test_a_turn_is_as_long_as_the_percentiles_of_the_budget_need() -> None:
    assert turn_seconds(parse_budgets(["p50 < 5 ms"])) == 1.0
    assert turn_seconds(parse_budgets(["p99 < 50 ms"])) * 3 / 0.050 >= 662
    assert turn_seconds(parse_budgets(["size < 1 MB"])) == 1.0


def test_the_options_of_a_device() -> None:
    assert isinstance(device_of([]), ThisMachine)
    assert isinstance(device_of(["ssh://nano"]), OverSsh)
    with pytest.raises(RemoteError, match="a search is for one device"):
        device_of(["ssh://one", "ssh://two"])
    with pytest.raises(RemoteError, match="not an address"):
        device_of(["nano"])
    with pytest.raises(EdgekitError, match="name one with --device"):
        device_of([], python="/usr/bin/python3")
    with pytest.raises(EdgekitError, match="--threads"):
        device_of([], threads=10**6)


@pytest.mark.slow
def test_a_device_that_goes_in_the_middle_loses_nothing(
    bundle: Bundle, sshd: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over one connection; when the server is back, the same search goes on, and the first turn is not measured again."""
    import sys

    server = SshServer(tmp_path / "device", sshd)
    monkeypatch.setenv("PATH", server.client(tmp_path / "client"))
    monkeypatch.setattr(remote_device, "RETRY_SECONDS", (0.05,))
    said: list[str] = []
    try:
        device = device_of([server.url], 1, sys.executable, None, said.append)
        with device:
            turns = Turns(bundle, tmp_path / "turns", device, AMPLE, SECONDS, 1)
            turns.next()
            server.stop()
            with pytest.raises(DeviceGone) as error:
                turns.next()
        assert str(error.value).startswith(f"{server.url}: ")
        assert "\n" not in str(error.value)
        kept = {path: path.read_bytes() for path in (tmp_path / "turns" / "turn-1").iterdir()}

        server.start()
        with device:
            turns = Turns(bundle, tmp_path / "turns", device, AMPLE, SECONDS, 1)
            in_turns([turns], 2)
        assert {path: path.read_bytes() for path in (tmp_path / "turns" / "turn-1").iterdir()} == kept
        assert {v.turns for v in turns.result().variants} == {2}
        assert sum("copying" in line for line in said) == 1, "the files are copied once"
    finally:
        server.stop()
