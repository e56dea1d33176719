"""Several runs in flight, and where a run's time goes: the same logits, errors handed on, every node counted."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from edgekit.errors import DataError, EdgekitError
from edgekit.machine import this_machine
from edgekit.runtimes import Session, open_session
from edgekit.runtimes.onnxruntime import OnnxRuntimeSession
from edgekit.runtimes.session import Profiled, ProfiledNode, fold_layers
from edgekit.runtimes.streams import open_streams
from tests.helpers.tiny_bundle import some_images, write_onnx

CPU_RUNTIMES = ["onnxruntime", "openvino"]


@pytest.fixture(scope="module", params=CPU_RUNTIMES)
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Session:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    write_onnx(path)
    return open_session(request.param, path, threads=2)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_streams_give_every_batch_its_own_logits(session: Session, count: int) -> None:
    images = some_images(12)
    expected = session.run(images)
    streams = open_streams(session, count, 3)
    assert streams.count >= 1
    assert streams.count == count or not count
    assert streams.settings["streams"] == str(streams.count)
    got: dict[int, np.ndarray] = {}
    for _ in range(5):
        for i in range(4):
            streams.submit(images[3 * i : 3 * i + 3], lambda logits, i=i: got.__setitem__(i, logits))  # type: ignore[misc]
    streams.wait()
    np.testing.assert_allclose(np.concatenate([got[i] for i in range(4)]), expected, atol=1e-4)
    streams.close()


def test_two_streams_run_at_the_same_time(session: Session) -> None:
    streams = open_streams(session, 2, 1)
    if session.runtime == "openvino":
        # OpenVINO runs no more streams than there are processors to run them, and says so.
        expected = str(min(2, this_machine().cores))
        assert streams.settings["NUM_STREAMS"] == expected
        assert streams.settings["INFERENCE_NUM_THREADS"] == expected
    else:
        assert streams.settings["intra_op_num_threads"] == "1", "the two threads are shared out"
        both = threading.Barrier(2)  # each waits for the other: one after the other would wait for ever
        for _ in range(2):
            streams.submit(some_images(1), lambda _: both.wait())
        streams.wait()
    streams.close()


def test_an_error_of_a_stream_reaches_who_waits_once_and_the_streams_go_on(session: Session) -> None:
    streams = open_streams(session, 2, 1)

    def fails(_: object) -> None:
        raise ZeroDivisionError("planted")

    streams.submit(some_images(1), fails)
    with pytest.raises(ZeroDivisionError, match="planted"):
        streams.wait()
    done: list[np.ndarray] = []
    streams.submit(some_images(1), done.append)
    streams.wait()
    assert len(done) == 1

    def float_images() -> None:
        streams.submit(some_images(1).astype(np.float64), done.append)
        streams.wait()

    with pytest.raises(DataError, match="float64"):
        float_images()
    streams.close()


def test_a_runtime_without_streams_runs_one_at_a_time(session: Session) -> None:
    class Plain:
        runtime, settings, run = "plain", session.settings, session.run

    plain: Session = Plain()  # type: ignore[assignment]
    done: list[np.ndarray] = []
    streams = open_streams(plain)
    streams.submit(some_images(2), done.append)
    assert streams.count == len(done) == 1
    with pytest.raises(EdgekitError, match="plain only runs one batch at a time, not 2"):
        open_streams(plain, 2)


def test_every_node_is_profiled_as_often_as_it_ran(session: Session) -> None:
    assert isinstance(session, Profiled)
    layers = session.profile(some_images(4), runs=7, warmup=3)
    assert {layer.calls for layer in layers} == {7}
    convolutions = [layer for layer in layers if layer.operator.startswith("Conv")]
    assert len(convolutions) == 2
    assert sum(layer.nanoseconds for layer in convolutions) > 0
    assert len({layer.name for layer in layers}) == len(layers)


def test_the_warm_up_is_not_profiled() -> None:
    executions = [("a", "Conv", t) for t in (900, 800, 1, 2)] + [
        ("b", "Loop", t) for t in (500, 400, 300, 200, 1, 2, 3, 4)
    ]
    assert fold_layers(executions, runs=4, warmup=2) == [
        ProfiledNode("a", "Conv", 2, 3),
        ProfiledNode("b", "Loop", 4, 10),
    ]


def test_the_transfers_are_timed_where_there_are_any(tmp_path: Path) -> None:
    write_onnx(tmp_path / "model.onnx")
    session = open_session("onnxruntime", tmp_path / "model.onnx", threads=1)
    assert isinstance(session, OnnxRuntimeSession)
    assert session.stages(some_images(1)) is None
    # The path that a GPU's tensors take, with main memory as the device: it computes, and every stage takes time.
    assert all(nanoseconds > 0 for nanoseconds in session._staged(some_images(1), "cpu"))
