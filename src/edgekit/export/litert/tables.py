"""Every operator of ONNX that can be written, and how."""

from __future__ import annotations

from edgekit.export.litert import convolutions, elementwise, matrices, pooling, shapes, spatial
from edgekit.export.litert.lowering import Lower

TABLE: dict[str, Lower] = {
    **convolutions.TABLE,
    **pooling.TABLE,
    **elementwise.TABLE,
    **matrices.TABLE,
    **shapes.TABLE,
    **spatial.TABLE,
}
