"""Environments as schedulers, containers and old shells leave them: it works, or one line says what is the matter."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from edgekit.errors import RecipeError
from edgekit.train.loop.processes import OthersMissing, Place, meet, place
from tests.helpers.recipe_changes import TINY, changed

TWO = changed(TINY, finetune__batch_size=48, supervised__batch_size=48)
TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29400"}
SLURM = {"SLURM_PROCID": "1", "SLURM_NTASKS": "4"}
# What a scheduler may have left in the environment of the tests themselves.
CLEAN = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("SLURM_", "TORCHELASTIC_")) and name not in {*TORCHRUN, "LOCAL_WORLD_SIZE"}
}


@pytest.mark.parametrize(
    ("environment", "alone", "found"),
    [
        ({}, True, None),
        ({"RANK": "0"}, True, None),
        ({"RANK": "0", "WORLD_SIZE": "1"}, True, None),
        ({"WORLD_SIZE": "1"}, False, None),
        (TORCHRUN, False, (1, 4, 1)),
        ({k: v for k, v in TORCHRUN.items() if k != "LOCAL_RANK"}, False, (1, 4, None)),
        ({"SLURM_NTASKS": "4"}, True, None),  # in salloc's shell
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, True, None),  # in a batch script
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_STEP_ID": "0"}, True, (0, 4, None)),  # under srun
        (SLURM, False, (1, 4, None)),
        ({**SLURM, "SLURM_LOCALID": "1"}, False, (1, 4, 1)),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, False, None),
    ],
)
def test_the_place_among_the_processes(
    environment: dict[str, str], alone: bool, found: tuple[int, int, int | None] | None
) -> None:
    got = place(environment, alone=alone)
    assert (None if got is None else (got.rank, got.world_size, got.local_rank)) == found


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "1"}, "the environment has RANK=1, but not WORLD_SIZE"),
        ({"WORLD_SIZE": "2"}, "the environment has WORLD_SIZE=2, but not RANK"),
        ({**TORCHRUN, "RANK": "one"}, "RANK is 'one', not a number"),
        ({**TORCHRUN, "RANK": "4"}, "this process is number 4 of 4, counted from 0"),
        ({**TORCHRUN, "MASTER_PORT": "99999"}, "MASTER_PORT is 99999, not a port"),
        ({k: v for k, v in TORCHRUN.items() if k != "MASTER_PORT"}, "MASTER_PORT is not set"),
        (
            {k: v for k, v in TORCHRUN.items() if k != "MASTER_ADDR"},
            "but not MASTER_ADDR, where the first process listens",
        ),
        ({"SLURM_NTASKS": "2(x3)", "SLURM_PROCID": "0"}, "SLURM_NTASKS is '2(x3)', not a number"),
    ],
)
def test_variables_that_make_no_sense_are_one_line(environment: dict[str, str], message: str) -> None:
    with pytest.raises(RecipeError) as refused:
        meet(place(environment) or pytest.fail("alone"))
    assert message in str(refused.value)
    assert refused.value.hint


def test_looking_at_a_module_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's recipe may name `package.module:factory`; its file is hashed, and neither it nor its packages are imported."""
    from edgekit.models.factories import source_file

    crash = "raise SystemExit('imported')\n"
    for name in ("trap/__init__.py", "trap/inner/__init__.py", "trap/inner/net.py", "spaces/deep/net.py", "single.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(crash)
    monkeypatch.chdir(tmp_path)
    found = {
        "trap.inner.net": "trap/inner/net.py", "trap.inner": "trap/inner/__init__.py", "trap": "trap/__init__.py", "single": "single.py",
        "spaces.deep.net": "spaces/deep/net.py",  # folders without __init__.py are packages, too
    }  # fmt: skip
    for module, path in found.items():
        assert source_file(module, "here").resolve() == tmp_path / path
    for module in ("trap.none", "none", "single.net", "spaces", "spaces.deep", "..", "", "trap..net", "sys", "é.x"):
        with pytest.raises(RecipeError, match="there is no module"):
            source_file(module, "here")
    assert not {"trap", "single", "spaces"} & set(sys.modules)
    assert source_file("edgekit.models.factories", "here").name == "factories.py"


def test_evaluating_and_exporting_a_foreign_run_run_no_code_of_its_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.data.splits import load_splits
    from edgekit.run import Run
    from edgekit.train.records.inputs import stage_inputs
    from tests.helpers.exported import RECIPE, write_run

    monkeypatch.chdir(tmp_path)
    (tmp_path / "trap").mkdir()
    (tmp_path / "trap" / "__init__.py").write_text("raise SystemExit('imported')\n")
    (tmp_path / "trap" / "net.py").write_text("raise SystemExit('imported')\n")
    (tmp_path / "weights.pt").write_bytes(b"x")
    run: Run = write_run(tmp_path / "run")
    teacher = {"model": "trap.net:make", "weights": "weights.pt"}
    content = RECIPE.model_dump(mode="json", by_alias=True)
    content["distill"]["teachers"] = [teacher]
    run.recipe_path.write_text(yaml.safe_dump(content))
    inputs = stage_inputs("distill", run.recipe, load_splits(run.recipe.data), run)
    assert inputs["teachers"][0]["factory"] == "trap.net:make"
    assert "trap" not in sys.modules


@pytest.mark.parametrize("name", ["/dev/zero", "/"])
def test_weights_that_a_recipe_names_are_a_file(name: str) -> None:
    from edgekit.train.distill.teachers import digest_of_weights

    with pytest.raises(RecipeError, match="is not a file"):
        digest_of_weights(name, "distill.teachers.weights")


def test_another_programs_lock_does_not_hold_a_bench_up(tmp_path: Path) -> None:
    import fcntl

    from edgekit.bench.lock import bench_lock

    path = tmp_path / "lock"
    with open(path, "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with bench_lock(path) as alone:  # it would wait for ever
            assert not alone()
            assert not alone()
        fcntl.flock(other, fcntl.LOCK_UN)
    with bench_lock(path) as alone:
        assert alone()


def test_where_nothing_can_be_locked_nothing_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file system here refuses flock, so the call's error number stands for one that does."""
    import errno
    import fcntl

    from edgekit.bench.lock import bench_lock

    def refused(handle: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refused)
    with bench_lock(tmp_path / "lock") as alone:
        assert alone()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("rank", [0, 1])
def test_it_gives_up_on_processes_that_do_not_come(rank: int) -> None:
    with pytest.raises(OthersMissing, match=f"for process {1 - rank} \\(do this\\)"):
        meet(Place(rank, 2, rank, "127.0.0.1", _free_port(), "do this"), patience=0.5)


def test_processes_meet() -> None:
    port, stores = _free_port(), {}

    def join(rank: int) -> None:
        stores[rank] = meet(Place(rank, 2, rank, "127.0.0.1", port, ""), patience=60)

    threads = [threading.Thread(target=join, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    stores[0].set("key", "value")
    assert stores[1].get("key") == b"value"


def _written(folder: Path, **changes: object) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(changed(TWO, **changes)))
    return path


def _train(recipe: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "edgekit", "train", str(recipe), "--run", str(recipe.parent / "run"), *arguments]


def test_a_batch_script_without_srun_says_what_it_waits_for_and_ends_on_ctrl_c(tmp_path: Path) -> None:
    """`SLURM_NTASKS=2 SLURM_PROCID=0 edgekit train … --devices 2`."""
    port = _free_port()
    waiting = subprocess.Popen(
        _train(_written(tmp_path), "--devices", "2"),
        env={**CLEAN, "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert waiting.stderr is not None
    line = waiting.stderr.readline()  # blocks until it says something; the suite's timeout ends what never does
    assert f"process 0 of 2 waits at 127.0.0.1:{port} for process 1, up to 120 s" in line
    waiting.send_signal(signal.SIGINT)
    _, errors = waiting.communicate()
    assert waiting.returncode == 130, errors
    assert "Traceback" not in errors


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "0"},
        pytest.param({"SLURM_NTASKS": "4"}, marks=pytest.mark.extra),
        pytest.param({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, marks=pytest.mark.extra),
    ],
)
def test_leftover_variables_do_not_stop_a_plain_training(environment: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        _train(_written(tmp_path), "--until", "data"), env={**CLEAN, **environment},
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.extra
def test_processes_without_local_rank_train_together(tmp_path: Path) -> None:
    command, port = _train(_written(tmp_path), "--devices", "2", "--until", "data"), _free_port()
    shared = {**CLEAN, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    both = [
        subprocess.Popen(
            command, env={**shared, "RANK": rank}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for rank in ("0", "1")
    ]
    for process in both:
        _, errors = process.communicate()
        assert process.returncode == 0, errors


@pytest.mark.slow
def test_a_refusal_of_several_processes_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        _train(_written(tmp_path, data__labeled="no-such-folder"), "--devices", "2"), env=CLEAN,
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    said = [line for line in done.stderr.splitlines() if "error" in line]
    assert len(said) == 1, done.stderr
    assert "no-such-folder: no such folder" in said[0]
