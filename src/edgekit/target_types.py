"""The words of the table of targets (`edgekit.targets`): what is said of a runtime and of a target, checked as it is said."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
MARKERS = ("circle", "square", "diamond", "triangle", "pentagon", "hexagon")
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
        options: fields of `export.inputs.ExportOptions` that no other target depends on.
        float_model: path of what is called with (float ONNX, folder) and writes a float model that the runtime opens into the folder, which
            it returns the path of: INT8 is timed against it. Empty: the runtime opens the ONNX itself, or its INT8 is not timed.
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

    def __post_init__(self) -> None:
        _check(self.name, _NAME, "name")
        _check(self.maker, _PATH, "maker")
        for what, path in (("set_batch", self.set_batch), ("float_model", self.float_model)):
            if path:
                _check(path, _PATH, what)
        if not self.precisions or not set(self.precisions) <= set(PRECISIONS):
            raise ValueError(f"precisions {self.precisions}: not some of {', '.join(PRECISIONS)}")
        if not set(self.defaults) <= set(self.precisions):
            raise ValueError(f"defaults {self.defaults}: not among its precisions")
        object.__setattr__(self, "defaults", self.defaults or self.precisions)
