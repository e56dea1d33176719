"""Where a model goes: the table of targets, each with the runtime that serves its files.

Every list, default, help text and "install this extra" line is read from here, and code is named by its path ("module:attribute")
and imported on use: this module costs nothing to import and needs the standard library alone. A package adds a target of its own by
one entry point of the group `edgekit.targets`; every process of edgekit finds it there (see CONTRIBUTING.md).
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, get_args

from edgekit.errors import EdgekitError, ExportError, near

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
GROUP = "edgekit.targets"  # of the entry points that add targets
MARKERS = ("circle", "square", "diamond", "triangle", "pentagon", "hexagon")
DEFAULT_TARGETS = ("onnx", "openvino")  # exported for where none is asked for
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def _check(value: str, pattern: re.Pattern[str], what: str) -> None:
    if not pattern.fullmatch(value):
        raise ValueError(f"{what} {value!r}: not of the form {pattern.pattern}")


@dataclass(frozen=True)
class Runtime:
    """What loads and runs the files of a target on a device.

    Attributes:
        name: as in a bundle's variants, for instance `onnxruntime`.
        title: as a report prints it.
        module: the Python module that must be there; it is looked for, not imported.
        packages: the distributions that bring it, any one of them.
        session: path of what is called with (model, threads, settings) and returns a `runtimes.Session`; see `runtimes.open_session`.
        probe: path of a function that loads the runtime and returns the devices that it finds, for `edgekit doctor`; it is called in a
            process of its own. Empty: there is nothing to ask.
        extra: of edgekit's wheel, that brings it; empty where none does.
        marker: its shape in a chart, one of `MARKERS`.
        providers: what it can compute with; the first is taken where none is named.
        requires: path of a function that raises `RuntimeMissing` where the machine lacks what it needs beside the package.
        accelerator: the kind of GPU that all of it computes on; empty: the provider decides.
        machines: architectures (`platform.machine()`) that its packages exist for; empty: all.
        system: what installs it with the operating system, where pip does not.
        exclusive: its packages overwrite each other's files, so that only one of them may be installed.
        reads_onnx: it opens the float ONNX of an export, too, which its INT8 is timed against.
        checking: settings for runs that are not timed, beside other programs.
        exact_threads: by precision, the threads with which it gives the same outputs each time; others are left to it.
    """

    name: str
    title: str
    module: str
    packages: tuple[str, ...]
    session: str
    probe: str = ""
    extra: str = ""
    marker: str = MARKERS[-1]
    providers: tuple[str, ...] = ()
    requires: str = ""
    accelerator: Literal["", "nvidia"] = ""
    machines: tuple[str, ...] = ()
    system: str = ""
    exclusive: bool = False
    reads_onnx: bool = False
    checking: Mapping[str, str] = field(default_factory=dict)
    exact_threads: Mapping[Precision, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self.name, _NAME, "name")
        if not self.packages:
            raise ValueError("packages: names no distribution")
        if self.marker not in MARKERS:
            raise ValueError(f"marker {self.marker}: not one of {', '.join(MARKERS)}")
        _check(self.session, _PATH, "session")
        for what, path in (("probe", self.probe), ("requires", self.requires)):
            if path:
                _check(path, _PATH, what)

    @property
    def install(self) -> str:
        """How to install it, for a hint."""
        how = (
            f"install edgekit's wheel with the extra [{self.extra}]"
            if self.extra
            else f"install the package {self.packages[0]}"
        )
        return f"{how}; {self.system}" if self.system else how


@dataclass(frozen=True)
class Target:
    """What an export can make: files for one runtime, in one or several precisions.

    Attributes:
        name: as on the command line; a variant's id is `NAME-PRECISION`.
        runtime: that serves its files.
        precisions: that it has, in the order in which they are listed.
        maker: path of what is called with (precision, `export.inputs.Sources`), writes the files into `sources.folder`, and returns a
            verified `bundle.Variant`.
        makes: what is made, in a few words.
        defaults: the precisions that are made where none is asked for; empty: all.
        needs_runtime: whether files can only be made where the runtime is installed.
        set_batch: path of what is called with (path, batch) and fixes the batch size of a file that was made with a free batch axis;
            empty: its maker takes care of `sources.batch`.
        options: fields of `export.inputs.Options` that no other target depends on.
    """

    name: str
    runtime: Runtime
    precisions: tuple[Precision, ...]
    maker: str
    makes: str
    defaults: tuple[Precision, ...] = ()
    needs_runtime: bool = False
    set_batch: str = ""
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check(self.name, _NAME, "name")
        _check(self.maker, _PATH, "maker")
        if self.set_batch:
            _check(self.set_batch, _PATH, "set_batch")
        if not self.precisions or not set(self.precisions) <= set(PRECISIONS):
            raise ValueError(f"precisions {self.precisions}: not some of {', '.join(PRECISIONS)}")
        if not set(self.defaults) <= set(self.precisions):
            raise ValueError(f"defaults {self.defaults}: not among its precisions")
        object.__setattr__(self, "defaults", self.defaults or self.precisions)


ONNXRUNTIME = Runtime(
    name="onnxruntime",
    title="ONNX Runtime",
    module="onnxruntime",
    packages=("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"),
    extra="ort",
    session="edgekit.runtimes.onnxruntime:OnnxRuntimeSession",
    probe="edgekit.runtimes.onnxruntime:devices",
    marker="circle",
    providers=("cpu", "cuda", "tensorrt", "openvino"),
    exclusive=True,
    reads_onnx=True,
    checking={"session.intra_op.allow_spinning": "0"},  # threads that wait need not spin
)
OPENVINO = Runtime(
    name="openvino",
    title="OpenVINO",
    module="openvino",
    packages=("openvino",),
    extra="openvino",
    session="edgekit.runtimes.openvino:OpenVinoSession",
    probe="edgekit.runtimes.openvino:devices",
    marker="square",
    providers=("cpu", "gpu", "npu"),
    reads_onnx=True,
    # With several threads, OpenVINO 2026.4 gives other INT8 logits each time on CPUs without VNNI, for batches of more than a few images
    # (36 dB against float with one thread, 24 to 36 dB with two; FP32 does not differ by a bit).
    exact_threads={"int8": 1},
)
TENSORRT = Runtime(
    name="tensorrt",
    title="TensorRT",
    module="tensorrt",
    packages=("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    extra="trt",
    session="edgekit.runtimes.tensorrt.session:open_classic",
    probe="edgekit.runtimes.tensorrt.probe:classic",
    requires="edgekit.runtimes.tensorrt.cuda:driver",
    accelerator="nvidia",
    system="a Jetson has it from JetPack",
    marker="diamond",
)
TENSORRT_RTX = Runtime(
    name="tensorrt-rtx",
    title="TensorRT-RTX",
    module="tensorrt_rtx",
    packages=("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"),
    extra="trt-rtx",
    session="edgekit.runtimes.tensorrt.session:open_rtx",
    probe="edgekit.runtimes.tensorrt.probe:rtx",
    requires="edgekit.runtimes.tensorrt.cuda:driver",
    accelerator="nvidia",
    machines=("x86_64",),
    marker="triangle",
)
_BUILT_IN = {
    target.name: target
    for target in (
        Target(
            name="onnx",
            runtime=ONNXRUNTIME,
            precisions=("fp32", "int8"),
            maker="edgekit.export.served:make_onnx",
            makes="ONNX",
            set_batch="edgekit.export.served:fix_onnx_batch",
        ),
        Target(
            name="openvino",
            runtime=OPENVINO,
            precisions=("fp32", "fp16", "int8"),
            defaults=("fp16", "int8"),
            maker="edgekit.export.served:make_openvino",
            makes="OpenVINO IR",
            needs_runtime=True,
            set_batch="edgekit.export.openvino:fix_ir_batch",
        ),
        Target(
            name="trt",
            runtime=TENSORRT,
            precisions=("fp32", "fp16", "int8"),
            defaults=("fp16", "int8"),
            maker="edgekit.export.tensorrt:make_classic",
            makes="ONNX and build plan; the engine is built on the device, on first use",
        ),
        Target(
            name="trt-rtx",
            runtime=TENSORRT_RTX,
            precisions=("fp32", "fp16", "int8"),
            defaults=("fp16", "int8"),
            maker="edgekit.export.tensorrt:make_rtx",
            makes="engine, also without a GPU",
            needs_runtime=True,
            options=("compute_capabilities",),
        ),
    )
}
_BUILT_IN_RUNTIMES = {target.runtime.name: target.runtime for target in _BUILT_IN.values()}


@dataclass(frozen=True)
class Added:
    """A target that an installed package adds; `package` is its name and version."""

    target: Target
    package: str


def built_in() -> dict[str, Target]:
    """edgekit's own targets by name, in their order."""
    return dict(_BUILT_IN)


def every() -> dict[str, Target]:
    """All targets by name: edgekit's own in their order, then those that installed packages add.

    Raises:
        EdgekitError: a package adds one that cannot be used.
    """
    return _BUILT_IN | {name: added.target for name, added in added_targets().items()}


def find(name: str) -> Target:
    """A target by its name.

    Raises:
        ExportError: there is none of that name.
        EdgekitError: a package adds one that cannot be used.
    """
    if name in _BUILT_IN:  # without a look at what is installed
        return _BUILT_IN[name]
    known = every()
    if name not in known:
        raise ExportError(f"unknown target {name}", near(name, known) or f"accepted: {', '.join(known)}")
    return known[name]


def runtimes() -> dict[str, Runtime]:
    """All runtimes by name, in the order of their targets.

    Raises:
        EdgekitError: a package adds a target that cannot be used.
    """
    return {target.runtime.name: target.runtime for target in every().values()}


def find_runtime(name: str) -> Runtime | None:
    """A runtime by its name; None where this machine's edgekit does not know it: a bundle may come from one that knows more.

    Raises:
        EdgekitError: a package adds a target that cannot be used.
    """
    return _BUILT_IN_RUNTIMES.get(name) or runtimes().get(name)  # the former without a look at what is installed


def every_provider() -> list[str]:
    """What some runtime can compute with: the words that `--provider` takes, each once."""
    return list(dict.fromkeys(word for runtime in runtimes().values() for word in runtime.providers))


def extras_of(names: Iterable[str]) -> tuple[str, ...]:
    """The extras of edgekit's wheel that bring some runtimes, each once; a runtime without one adds none."""
    found = [runtime.extra for name in names if (runtime := find_runtime(name)) is not None and runtime.extra]
    return tuple(dict.fromkeys(found))


def runtimes_of(extras: Iterable[str]) -> list[Runtime]:
    """The runtimes that some extras of edgekit's wheel bring; an extra that brings none adds none."""
    wanted = set(extras)
    return [runtime for runtime in _BUILT_IN_RUNTIMES.values() if runtime.extra in wanted]


def rank(runtime: str) -> int:
    """The place of a runtime in the table; one that is unknown comes last."""
    names = list(_BUILT_IN_RUNTIMES) if runtime in _BUILT_IN_RUNTIMES else list(runtimes())
    return names.index(runtime) if runtime in names else len(names)


def title(runtime: str) -> str:
    """What a runtime is called in a report; of one that is unknown, its name."""
    found = find_runtime(runtime)
    return found.title if found else runtime


def marker(runtime: str) -> str:
    """The shape of a runtime in a chart."""
    found = find_runtime(runtime)
    return found.marker if found else MARKERS[-1]


def resolve(path: str) -> Any:
    """What a path of the table names: `module:attribute`, the module imported.

    Raises:
        ImportError, AttributeError: it is not there.
    """
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


@cache
def added_targets() -> dict[str, Added]:
    """The targets that installed packages add, by name.

    Raises:
        EdgekitError: one cannot be loaded, is no `Target`, or has the name of another target or runtime.
    """
    from importlib.metadata import entry_points

    found: dict[str, Added] = {}
    taken = dict(_BUILT_IN_RUNTIMES)
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        package = f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value
        where = f"the package {package}, target {point.name}"
        hint = "update that package, or uninstall it"
        try:
            target = point.load()
        except Exception as error:  # of whatever kind: it is somebody else's module
            reason = f"{type(error).__name__}: {error}"
            raise EdgekitError(f"{where}: {point.value} does not load: {reason}", hint) from error
        if not isinstance(target, Target):
            raise EdgekitError(f"{where}: {point.value} is {type(target).__name__}, not edgekit.targets.Target", hint)
        if target.name in _BUILT_IN or target.name in found:
            raise EdgekitError(f"{where}: there is another target of the name {target.name}", hint)
        if taken.setdefault(target.runtime.name, target.runtime) != target.runtime:
            raise EdgekitError(f"{where}: there is another runtime of the name {target.runtime.name}", hint)
        found[target.name] = Added(target, package)
    return found
