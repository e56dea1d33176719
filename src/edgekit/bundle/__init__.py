"""The bundle, which is copied to the device: a folder, or a .zip of it, with `bundle.json`, the model files and golden tensors.

`Bundle.open(path)` opens one. `manifest`, `variant` and `part` are what `bundle.json` says. A bundle contains no pickles: the golden
tensors are a NumPy archive that is read without pickle support.
"""

from edgekit.bundle.manifest import BUNDLE_SCHEMA, MANIFEST, Manifest, Tensor, read_manifest, write_manifest
from edgekit.bundle.opened import Bundle
from edgekit.bundle.part import BundleFile, Figures, ManifestPart
from edgekit.bundle.variant import SLOWER, Accuracy, Parity, Speed, Variant, Verdict
from edgekit.targets import Precision

__all__ = [
    "BUNDLE_SCHEMA",
    "MANIFEST",
    "SLOWER",
    "Accuracy",
    "Bundle",
    "BundleFile",
    "Figures",
    "Manifest",
    "ManifestPart",
    "Parity",
    "Precision",
    "Speed",
    "Tensor",
    "Variant",
    "Verdict",
    "read_manifest",
    "write_manifest",
]  # fmt: skip
