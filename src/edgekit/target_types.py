"""`Runtime` and `Target`, the entries of the table of targets (`edgekit.targets`), validated when they are created."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
MARKERS = ("circle", "square", "diamond", "triangle", "pentagon", "star", "hexagon")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def _check(value: str, pattern: re.Pattern[str], what: str) -> None:
    if not pattern.fullmatch(value):
        raise ValueError(f"{what} {value!r}: does not match {pattern.pattern}")


@dataclass(frozen=True)
class Runtime:
    """A runtime: loads and runs the files of a target on a device.

    Attributes:
        name: its name in a bundle's variants, for example `onnxruntime`.
        title: its name in a report.
        module: the Python module that must be installed; it is searched for, not imported.
        packages: the distributions that install it, any one of them.
        session: path of a callable (model, threads, settings) that returns a `runtimes.Session`; see `runtimes.open_session`.
        probe: path of a function that loads the runtime and returns the devices that it finds, for `edgekit doctor`, which calls it in a
            process of its own. Empty: nothing to probe.
        extra: the extra of edgekit's wheel that installs it; empty if there is none.
        marker: its marker in a chart, one of `MARKERS`.
        providers: its execution providers; the first is the default.
        requires: path of a function that raises `RuntimeMissing` if the machine lacks something other than the package.
        accelerator: the kind of GPU that it always computes on; empty: the provider decides.
        machines: architectures (`platform.machine()`) for which its packages exist; empty: all.
        system: how it is installed with the operating system, if not by pip.
        exclusive: whether its packages overwrite each other's files, so that only one of them may be installed.
        reads_onnx: whether it also runs the float ONNX of an export; its INT8 is then timed against that.
        checking: settings for runs that are not timed and share the machine with other programs.
        timed: whether its time on this machine means anything; False of one that stands in for another kind of machine.
        aborts: whether a damaged file can end the process that loads it: `Predictor` then tries files in another process first.
        torch_free: whether it runs without PyTorch; another is not installed on a device that edgekit sets up.
        exact_threads: by precision, the number of threads with which its outputs are reproducible; for others it decides itself.
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
    timed: bool = True
    aborts: bool = False
    torch_free: bool = True
    checking: Mapping[str, str] = field(default_factory=dict)
    exact_threads: Mapping[Precision, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self.name, _NAME, "name")
        if not self.packages:
            raise ValueError("packages: must name at least one distribution")
        if self.marker not in MARKERS:
            raise ValueError(f"marker {self.marker}: must be one of {', '.join(MARKERS)}")
        _check(self.session, _PATH, "session")
        for what, path in (("probe", self.probe), ("requires", self.requires)):
            if path:
                _check(path, _PATH, what)

    @property
    def install(self) -> str:
        """Installation instructions, for a hint."""
        how = (
            f"install edgekit's wheel with the extra [{self.extra}]"
            if self.extra
            else f"install the package {self.packages[0]}"
        )
        return f"{how}; {self.system}" if self.system else how


@dataclass(frozen=True)
class Target:
    """A target of an export: files for one runtime, in one or several precisions.

    Attributes:
        name: its name on the command line; a variant's id is `NAME-PRECISION`.
        runtime: the runtime that serves its files.
        precisions: its precisions, in the order in which they are listed.
        maker: path of a callable (precision, `export.inputs.Sources`) that writes the files into `sources.folder` and returns a
            verified `bundle.Variant`.
        makes: its files, in a few words.
        defaults: the precisions of an export without --precision; empty: all.
        needs_runtime: whether making its files needs the runtime.
        set_batch: path of a callable (path, batch) that fixes the batch size of a file with a free batch axis;
            empty: its maker handles `sources.batch`.
        options: fields of `export.inputs.ExportOptions` that only this target depends on.
        float_model: path of what is called with (float ONNX, folder) and writes a float model that the runtime opens into the folder, which
            it returns the path of: INT8 is timed against it. Empty: the runtime opens the ONNX itself, or its INT8 is not timed.
        only_batch: the only batch size that its files can have; 0: any.
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
    float_model: str = ""
    only_batch: int = 0

    def __post_init__(self) -> None:
        _check(self.name, _NAME, "name")
        _check(self.maker, _PATH, "maker")
        for what, path in (("set_batch", self.set_batch), ("float_model", self.float_model)):
            if path:
                _check(path, _PATH, what)
        if not self.precisions or not set(self.precisions) <= set(PRECISIONS):
            raise ValueError(f"precisions {self.precisions}: must be one or more of {', '.join(PRECISIONS)}")
        if not set(self.defaults) <= set(self.precisions):
            raise ValueError(f"defaults {self.defaults}: must be among its precisions")
        object.__setattr__(self, "defaults", self.defaults or self.precisions)
