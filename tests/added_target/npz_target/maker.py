"""The maker, called where bundles are exported: it may import what an export has, PyTorch and onnx among it."""

import numpy as np

from edgekit.bundle import BundleFile, Precision, Variant
from edgekit.errors import ExportError
from edgekit.export.inputs import Sources
from edgekit.export.verify import verify
from edgekit.runtimes import open_session


def make(precision: Precision, sources: Sources) -> Variant:
    """The affine map that the float graph computes, found by one image with a single bright value for each input.

    Raises:
        ExportError: the network is not linear.
    """
    shape = sources.reference.images.shape[1:]
    probes = np.zeros((1 + np.prod(shape), *shape), np.uint8)
    probes[1:].reshape(len(probes) - 1, -1)[np.diag_indices(len(probes) - 1)] = 255
    session = open_session("onnxruntime", sources.float_onnx)
    try:
        logits = session.run(probes)
        golden = sources.reference.images[:8]
        expected = session.run(golden)
    finally:
        session.close()
    bias, weights = logits[0], (logits[1:] - logits[0]) / 255
    got = golden.reshape(len(golden), -1).astype(np.float32) @ weights + bias
    if not np.allclose(got, expected, rtol=1e-3, atol=1e-3 * float(np.abs(expected).max())):
        raise ExportError("npz: the network is not linear", "leave --target npz out")
    np.savez(sources.folder / "model.npz", weights=weights, bias=bias)
    variant = Variant(
        id=f"npz-{precision}",
        runtime="numpy",
        precision=precision,
        files=[BundleFile.of(sources.folder, "model.npz")],
        executed=False,
        status="unexecuted",
    )
    return verify(variant, sources.folder, sources.reference, sources.options.bounds)
