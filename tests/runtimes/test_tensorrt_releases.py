"""Releases of TensorRT, and machines without it or without a GPU."""

from __future__ import annotations

import ast
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit import runtimes
from edgekit.errors import RuntimeMissing
from edgekit.runtimes import open_session
from edgekit.runtimes.tensorrt import (
    adapter,
    cuda,
    engine,
)
from tests.helpers import tensorrt_graphs

HERE = Path(__file__).parents[1]
model = tensorrt_graphs.model


# What a variable that holds one of TensorRT's objects is called in the adapter -> its class in the listings.
_CLASSES = {
    "builder": "Builder", "network": "INetworkDefinition", "config": "IBuilderConfig", "parser": "OnnxParser", "error": "ParserError",
    "profile": "IOptimizationProfile", "tensor": "ITensor", "layer": "ILayer", "before": "ILayer", "cache": "ITimingCache",
    "runtime": "Runtime", "engine": "ICudaEngine", "context": "IExecutionContext", "inspector": "EngineInspector",
}  # fmt: skip


def uses(source: str) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """(class, attribute) pairs that a source file uses of TensorRT's objects, and those that it asks for with `hasattr` first.

    `trt.X.Y` is the member Y of the enum X, and `member(trt, "X", "Y")` one that need not be there.
    """
    used, asked = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in _CLASSES:
            used.add((_CLASSES[node.value.id], node.attr))
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Attribute)
            and ast.unparse(node.value.value) == "trt"
        ):
            used.add((node.value.attr, node.attr))
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "trt" and not node.attr.startswith("__"):
            used.add((node.attr, ""))
        if (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) == "hasattr"
            and isinstance(node.args[1], ast.Constant)
        ):
            asked.add((_CLASSES.get(ast.unparse(node.args[0]), node.args[1].value), str(node.args[1].value)))
    return used, asked


def real_rtx() -> dict[str, Any]:
    import tensorrt_rtx

    return {name: set(dir(getattr(tensorrt_rtx, name))) for name in dir(tensorrt_rtx)}


@pytest.mark.parametrize("release", ["10.3", "10.16", "11.4", "rtx"])
def test_every_name_that_is_used_is_in_every_release(release: str, require_module: Callable[[str, str], None]) -> None:
    if release == "rtx":
        require_module("tensorrt_rtx", "its names are compared")
        names = real_rtx()
    else:
        names = json.loads((HERE / "fixtures" / "tensorrt_api" / f"{release}.json").read_text())
    used, asked = map(set.union, *[uses(inspect.getsource(module)) for module in (adapter, engine)])
    assert ("IExecutionContext", "execute_async_v3") in used, "the files are read at all"
    assert len(used) > 50
    guarded = {attribute for _, attribute in asked}
    absent = {
        (owner, attribute)
        for owner, attribute in used
        if owner not in names or (attribute and attribute not in names[owner])
    }
    assert {f"{owner}.{attribute}" for owner, attribute in absent if attribute not in guarded} == set()


@pytest.mark.parametrize(
    ("flavor", "release", "strong"),
    [("trt", (8, 6, 1), False), ("trt", (10, 11, 0), False), ("trt", (10, 12, 0), True), ("trt", (11, 4), True), ("trt-rtx", (1, 7, 1), True)],
)  # fmt: skip
def test_typing_follows_the_release(flavor: Any, release: tuple[int, ...], strong: bool) -> None:
    assert adapter.strongly_typed(flavor, release) is strong


def test_type_stubs_are_not_taken_for_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(RuntimeMissing, match="is not TensorRT"):
        adapter.load("trt")
    sys.modules.pop("tensorrt", None)


def test_a_machine_without_a_gpu_says_so(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda.driver.cache_clear()
    monkeypatch.setattr(cuda, "LIBRARY", "libcuda-that-is-not-there.so.1")
    monkeypatch.setattr(cuda.Driver.__init__, "__defaults__", ("libcuda-that-is-not-there.so.1",))
    monkeypatch.setattr(runtimes, "_version", lambda *_: "10.3.0")
    for runtime in ("tensorrt", "tensorrt-rtx"):
        with pytest.raises(
            RuntimeMissing, match=f"{runtime}: no NVIDIA GPU: the driver's library .* is not on this machine"
        ):
            open_session(runtime, model)  # type: ignore[arg-type]


def test_the_drivers_release_as_the_system_states_it(tmp_path: Path) -> None:
    assert cuda.driver_release(tmp_path) == ""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "nv_tegra_release").write_text("# R36 (release), REVISION: 4.3, GCID: 38968081\n# KERNEL")
    assert cuda.driver_release(tmp_path) == "# R36 (release), REVISION: 4.3, GCID: 38968081"
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text("NVRM version: NVIDIA UNIX Open Kernel Module  570.86.15\nGCC")
    assert "570.86.15" in cuda.driver_release(tmp_path)
