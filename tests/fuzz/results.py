"""Result files through `compare`, and whole runs through `report`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from edgekit.machine import this_machine
from edgekit.result import Ablation, AblationCell, Axis, Result, Score, Transfer, TransferSet
from tests.helpers.report_sample import CREATED, make_remote, make_run

from .judge import Broken, run_command
from .mutators import Draws, change_file, changed_bytes, changed_tree, copied, json_bytes

MEMORY = 512 << 20
_GATES = [
    "p50 > +5%",
    "p90 > 20ms",
    "accuracy < -0.5pt",
    "peak_rss > +10%",
    "throughput < 100images/s",
    "size > +1%",
    "energy > +5%",
    "p99.9 > 1ms",
]


def make_corpus(folder: Path) -> None:
    """A run with everything that a report shows, of another device, too; an ablation and a transfer."""
    run = make_run(folder / "run", samples=60)
    make_remote(run, "jetson")
    for path in sorted((run / "export").glob("*.bin")):  # large for nothing: digests are all that is looked at
        path.write_bytes(path.read_bytes()[:1000])
    _right_digests(run / "export")
    scores = [Score(model="student", metric="top1", value=0.9, samples=100, protocol="test set")]
    cells = [
        AblationCell(values=["1", "2"], run="cells/a", scores=scores, seconds=3.0),
        AblationCell(values=["1", "3"], run="cells/b", error="failed"),
    ]
    ablation = Ablation(
        subject="values", recipe="digits", data="digits", until="distill",
        axes=[Axis(name="seed", values=["1"]), Axis(name="name", values=["2", "3"])],
        planned=2, cells=cells,
    )  # fmt: skip
    transfer = Transfer(
        run="runs/digits", weights_sha256="0" * 64,
        sets=[TransferSet(name="birds", data="birds/", classes=2, train=10, test=10, split="half",
                          scores=[s.model_copy(update={"metric": "linear"}) for s in scores])],
    )  # fmt: skip
    for name, measurement in (("ablation", ablation), ("transfer", transfer)):
        Result(created=CREATED, command=["edgekit"], machine=this_machine(), measurement=measurement).write(
            folder / f"{name}.json"
        )


def _right_digests(bundle: Path) -> None:
    from edgekit.bundle import BundleFile, read_manifest, write_manifest

    manifest = read_manifest(bundle)
    for variant in manifest.variants:
        variant.files = [BundleFile.of(bundle, file.path) for file in variant.files]
    write_manifest(bundle, manifest)


class Target:
    """One result file that is compared, or one run that is reported, a case."""

    def __init__(self, corpus: Path, secret: Path) -> None:
        self._run, self._secret = corpus / "run", secret
        found = [*self._run.glob("bench/**/*.json"), self._run / "evaluate" / "evaluation.json", *corpus.glob("*.json")]
        self._results = sorted(found)
        self._trees = [json.loads(path.read_text()) for path in self._results]
        self._files = sorted(
            path for path in self._run.rglob("*") if path.is_file() and path.suffix not in {".bin", ".html"}
        )

    def run(self, draws: Draws, folder: Path) -> Callable[[], object]:
        """Make a result or a run; gives what reads it."""
        return self._report(draws, folder) if draws.random() < 0.3 else self._compare(draws, folder)

    def _compare(self, draws: Draws, folder: Path) -> Callable[[], object]:
        which = draws.randrange(len(self._results))
        good, bad = copied(self._results[which], folder / "good.json"), folder / "bad.json"
        kind = draws.random()
        if kind < 0.7:
            bad.write_bytes(json_bytes(draws, changed_tree(draws, self._trees[which])))
        elif kind < 0.95:
            bad.write_bytes(
                changed_bytes(
                    draws, good.read_bytes(), [self._results[draws.randrange(len(self._results))].read_bytes()]
                )
            )
        else:
            bad.write_bytes(good.read_bytes())
            change_file(draws, bad, self._secret)
        pair = draws.choice(((good, bad), (bad, good), (bad, bad), (folder, good)))
        words = draws.choice(((), ("--json",), ("--markdown",), ("--strict",)))
        gates = [word for gate in draws.sample(_GATES, draws.choice((0, 0, 1, 2))) for word in ("--fail-if", gate)]

        def act() -> None:
            Result.read(bad)
            run_command("compare", *pair, *words, *gates)

        return act

    def _report(self, draws: Draws, folder: Path) -> Callable[[], object]:
        run = copied(self._run, folder / "run")
        for _ in range(draws.choice((1, 1, 2))):
            file = run / draws.choice(self._files).relative_to(self._run)
            if not file.is_file():
                continue
            content, kind = file.read_bytes(), draws.random()
            if file.suffix == ".json" and kind < 0.7:
                file.write_bytes(
                    json_bytes(draws, changed_tree(draws, json.loads(content))) if _is_json(content) else content
                )
            elif kind < 0.9:
                file.write_bytes(changed_bytes(draws, content))
            else:
                change_file(draws, file, self._secret)

        def act() -> None:
            run_command("report", run, *(["--json"] if draws.random() < 0.3 else []))
            page = (run / "report.html").read_text(encoding="utf-8")
            if any(mark in page for mark in ("\x1b", "\x00", "<script>alert")):
                raise Broken("the page holds a control character")

        return act


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except ValueError:
        return False
    return True
