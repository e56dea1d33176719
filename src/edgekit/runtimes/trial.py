"""A first load and run in another process, for runtimes that end the process where a file is damaged."""

from __future__ import annotations

import multiprocessing

from edgekit.bundle import Bundle, Variant
from edgekit.errors import BundleError
from edgekit.runtimes import load, why_not
from edgekit.runtimes.isolation import ProcessDied, run_in_subprocess
from edgekit.runtimes.session import run_in_batches
from edgekit.targets import find_runtime


def try_first(bundle: Bundle, variant: Variant, threads: int) -> None:
    """Load a variant and run one batch in another process, if its runtime may abort (`Runtime.aborts`).

    A digest only shows that a file is what its bundle says; a bundle from elsewhere may say it of a damaged file. `doctor` and `bench` need
    no trial, because they load every model in another process anyway.

    Args:
        bundle: an opened bundle.
        variant: one of its variants.
        threads: threads inside an operator; 0 leaves it to the runtime.

    Raises:
        BundleError: the file ends the process that loads or runs it.
        RuntimeMissing, BundleError, DataError: see `edgekit.runtimes.load` and `run_in_batches`.
    """
    runtime = find_runtime(variant.runtime)
    if runtime is None or not runtime.aborts or why_not(variant.runtime) is not None:
        return
    if (
        multiprocessing.current_process().daemon
    ):  # which may not start another; the process is not the user's own anyway
        return
    try:
        run_in_subprocess(_run_once, str(bundle.path.resolve()), bundle.digest, variant.id, threads)
    except ProcessDied as died:
        raise BundleError(
            f"{bundle.path / variant.files[0].path}: {runtime.title} ended the process that ran it ({died.how})",
            "the file is damaged, or from another release: export the bundle again; SIGKILL: out of memory",
        ) from died


def _run_once(path: str, digest: str, name: str, threads: int) -> None:
    from PIL import Image

    bundle = Bundle.open(path, digest)
    session = load(bundle, bundle.variant(name), threads=threads)
    pixels = bundle.manifest.preprocessing(Image.new("RGB", (64, 64)))
    run_in_batches(session, pixels[None], 1)
