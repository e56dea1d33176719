"""What the tests of several runtimes start from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.tiny_bundle import write_onnx


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network with an embedding, in a folder of its own."""
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    write_onnx(path, embedding=True)
    return path
