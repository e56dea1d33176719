"""The session, called on devices: it imports no PyTorch and no onnx."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import BundleError
from edgekit.foreign import Unreadable, parse_npz
from edgekit.runtimes.model_files import ModelFiles, files_of
from edgekit.runtimes.session import check_images, check_settings


class NpzSession:
    """A linear model (see `edgekit.runtimes.Session`)."""

    runtime = "numpy"
    version = np.__version__

    def __init__(self, model: Path | ModelFiles, threads: int, settings: Mapping[str, str]) -> None:
        check_settings(self.runtime, settings, [])
        files = files_of(model)
        try:
            arrays = parse_npz(BytesIO(files.read(files.path.name)), files.path, ["weights", "bias"])
        except Unreadable as error:
            raise BundleError(f"{files.path}: no linear model: {error.reason}", "export the bundle again") from error
        self._weights, self._bias = arrays["weights"], arrays["bias"]
        side = round((len(self._weights) / 3) ** 0.5)
        self._shape = (side, side, 3)
        self.settings: dict[str, str] = {}
        self.outputs = [files.task.main]
        self.batch: int | None = None

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The main output, float32 with n rows, of images (n, H, W, 3) uint8."""
        check_images(images, self._shape, None)
        logits: NDArray[np.float32] = images.reshape(len(images), -1).astype(np.float32) @ self._weights + self._bias
        return logits

    def run_all(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """The same by its name."""
        return {self.outputs[0]: self.run(images)}

    def close(self) -> None:
        """Nothing is held beside the arrays."""


def devices() -> list[str]:
    """What `edgekit doctor` lists."""
    return ["CPU"]
