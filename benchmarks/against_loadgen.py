"""edgekit's single stream against MLCommons LoadGen's: the same session, in turns, each in a fresh process.

    python benchmarks/against_loadgen.py [--pairs 4] [--seconds 5] [--quick]

For both CPU runtimes: edgekit measures, LoadGen measures through edgekit's session, and so on. Reported are both tools' p90
(LoadGen's from its own summary), and the median over the pairs of their ratio; the goal is within 3 %. LoadGen's queries go
through its Python binding, whose own time is in its figure and is not in edgekit's: what edgekit timed around the session
inside LoadGen's run is reported beside it.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgekit.bench.loadgen import percentile_ms
from edgekit.bench.process import run_worker
from edgekit.bench.request import Request
from peers import bundle_here, finish, parser, ratio


def main() -> None:
    arguments = parser(__doc__, "against_loadgen.json", pairs=4, seconds=5.0).parse_args()
    pairs, seconds = (1, 0.5) if arguments.quick else (arguments.pairs, arguments.seconds)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        bundle = bundle_here(Path(folder, "bundle"))
        for variant in bundle.manifest.variants:
            request = Request(
                str(bundle.path),
                variant.id,
                variant.runtime,
                1,
                arguments.threads,
                seconds,
                11 if arguments.quick else 662,
            )
            ours, theirs, inside = [], [], []
            for i in range(pairs):
                under = replace(request, loadgen=str(Path(folder, f"{variant.id}-{i}")))
                for asked in (request, under) if i % 2 else (under, request):
                    outcome = run_worker(asked)
                    p90 = float(np.percentile(outcome.samples_ns, 90) / 1e6)
                    if asked is request:
                        ours.append(p90)
                        continue
                    inside.append(p90)
                    p90_of_loadgen = percentile_ms(outcome.loadgen["summary"], 90)
                    assert p90_of_loadgen is not None
                    theirs.append(p90_of_loadgen)
            row = {
                "variant": variant.id, "threads": arguments.threads, "pairs": pairs, "seconds": seconds,
                "edgekit_p90_ms": ours, "loadgen_p90_ms": theirs, "session_inside_loadgen_p90_ms": inside,
                "ratio": ratio(ours, theirs), "ratio_inside": ratio(ours, inside),
            }  # fmt: skip
            rows.append(row)
            both = row["ratio"]
            print(
                f"{variant.id:14} p90: edgekit {np.median(ours):.3f} ms, LoadGen {np.median(theirs):.3f} ms, ratio "
                f"{both['median']:.4f} [{both['low']:.4f}, {both['high']:.4f}]; the session inside LoadGen's run "
                f"{np.median(inside):.3f} ms"
            )
    finish(arguments, "p90 of a single stream, edgekit over MLCommons LoadGen, in turns in fresh processes", rows)


if __name__ == "__main__":
    main()
