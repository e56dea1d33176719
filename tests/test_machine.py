"""Whether the processor is the one that it seems to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.machine import emulated, this_machine

ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\n"
X86 = "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: sse4_2 avx2\n"


@pytest.mark.parametrize(
    ("process", "kernel", "cpuinfo", "expected"),
    [
        ("x86_64", "x86_64", X86, False),
        ("i686", "x86_64", X86, False),
        ("aarch64", "aarch64", ARM, False),
        ("armv7l", "aarch64", ARM, False),
        ("aarch64", "x86_64", X86, True),
        ("x86_64", "aarch64", ARM, True),
        # A kernel before 6.1 does not name its architecture; a newer QEMU shows a /proc/cpuinfo of its own.
        ("aarch64", None, X86, True),
        ("aarch64", None, ARM, False),
        ("aarch64", "x86_64", ARM, True),
        ("riscv64", None, "isa\t: rv64imafdc\n", False),
    ],
)
def test_emulation_is_noticed(tmp_path: Path, process: str, kernel: str | None, cpuinfo: str, expected: bool) -> None:
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    (tmp_path / "proc/cpuinfo").write_text(cpuinfo)
    if kernel:
        (tmp_path / "proc/sys/kernel/arch").write_text(f"{kernel}\n")
    assert emulated(tmp_path, process) is expected


def test_a_machine_that_says_nothing_is_not_called_emulated(tmp_path: Path) -> None:
    assert not emulated(tmp_path, "aarch64")


def test_this_machine_fits_its_own_description() -> None:
    machine = this_machine()
    assert machine.emulated is emulated()
    assert machine.cores >= 1
