"""How near is near enough: one rule for the export, the doctor and the bench."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgekit import parity
from edgekit.bench.golden import prove
from edgekit.bundle import Bundle, BundleFile, Variant
from edgekit.errors import BundleError
from edgekit.export.verify import AccuracyBounds, ReferenceOutputs, judge
from edgekit.quantize import fidelity
from edgekit.runtimes.session import Session
from edgekit.tasks.classification import CLASSIFICATION

rows = st.lists(
    st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=3, max_size=3), min_size=1, max_size=4
).map(lambda values: np.array(values, np.float32))  # fmt: skip


def turned(embedding: NDArray[np.float32], cosine: float) -> NDArray[np.float32]:
    """Vectors of the same lengths, each at that cosine with the given one."""
    other = np.random.default_rng(0).normal(size=embedding.shape)
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    other -= (other * unit).sum(1, keepdims=True) * unit
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    length = np.linalg.norm(embedding, axis=1, keepdims=True)
    found: NDArray[np.float32] = (length * (cosine * unit + math.sqrt(1 - cosine**2) * other)).astype(np.float32)
    return found


EMBEDDING = np.abs(np.random.default_rng(1).normal(size=(8, 16))).astype(np.float32)
ZERO = EMBEDDING.copy()
ZERO[3] = 0
BROKEN = EMBEDDING.copy()
BROKEN[3, 5] = np.nan
LOGITS = np.random.default_rng(2).normal(size=(8, 4)).astype(np.float32)
IMAGES = np.zeros((8, 8, 8, 3), np.uint8)


class Answers:
    """A session that answers with given outputs: both sides must see exactly these."""

    runtime, version, batch = "onnxruntime", "1", None

    def __init__(self, **outputs: NDArray[np.float32]) -> None:
        self.given, self.outputs, self.settings = outputs, list(outputs), dict[str, str]()

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.given["logits"]

    def run_all(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        return self.given

    def close(self) -> None:
        """Nothing is open."""


def variant(precision: str) -> Variant:
    file = BundleFile(path="model.onnx", bytes=1, sha256="0" * 64)
    return Variant.model_validate(
        {"id": f"onnx-{precision}", "runtime": "onnxruntime", "precision": precision, "files": [file],
         "executed": True, "status": "verified"}
    )  # fmt: skip


def exported(precision: str, trained: NDArray[np.float32], got: NDArray[np.float32] | None) -> Variant:
    """What the export says of a variant that answers as trained, but for the embedding."""
    reference = ReferenceOutputs(CLASSIFICATION, IMAGES, None, {"logits": LOGITS}, np.arange(8), {"embedding": trained})
    return judge(
        variant(precision), {"logits": LOGITS}, {} if got is None else {"embedding": got}, reference, AccuracyBounds()
    )


def of_logits(trained: NDArray[np.float32]) -> ReferenceOutputs:
    return ReferenceOutputs(CLASSIFICATION, IMAGES, None, {"logits": trained}, np.arange(8))


def proved(precision: str, trained: NDArray[np.float32], got: NDArray[np.float32] | None) -> tuple[bool, float | None]:
    """Whether a device proves the same variant, and the cosine that it finds."""
    outputs = {"logits": LOGITS} | ({} if got is None else {"embedding": got})
    session: Session = Answers(**outputs)
    try:
        proof = prove(
            session, variant(precision), {"images": IMAGES, "logits": LOGITS, "embedding": trained}, 8, CLASSIFICATION
        )
    except BundleError:
        return False, None
    return True, proof.figures["embedding_cosine"]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize(
    ("trained", "got", "passes", "cosine"),
    [
        pytest.param(EMBEDDING, EMBEDDING, True, 1, id="equal"),
        pytest.param(ZERO, ZERO, True, 1, id="the same zero vector"),
        pytest.param(EMBEDDING, ZERO, False, 0, id="a zero vector for another"),
        pytest.param(ZERO, EMBEDDING, False, 0, id="another vector for a zero vector"),
        pytest.param(4 * EMBEDDING, turned(4 * EMBEDDING, 0.05), False, 0.05, id="another direction"),
        pytest.param(EMBEDDING, -EMBEDDING, False, -1, id="negated"),
        pytest.param(EMBEDDING, BROKEN, False, None, id="not finite"),
        pytest.param(EMBEDDING, EMBEDDING[:, :-1], False, None, id="of another shape"),
        pytest.param(EMBEDDING, EMBEDDING[:, :1], False, None, id="of a shape that NumPy would broadcast"),
        pytest.param(EMBEDDING, None, False, None, id="none at all"),
    ],
)
def test_the_export_and_the_device_agree_on_an_embedding(
    precision: str, trained: NDArray[np.float32], got: NDArray[np.float32] | None, passes: bool, cosine: float | None
) -> None:
    judged = exported(precision, trained, got)
    assert judged.status == ("verified" if passes else "rejected"), judged.note
    assert judged.parity is not None
    assert judged.parity.figures.get("embedding_cosine") == (
        None if cosine is None else pytest.approx(cosine, abs=1e-6)
    )
    json.loads(judged.model_dump_json(), parse_constant=pytest.fail)  # no NaN in a bundle
    here, found = proved(precision, trained, got)
    assert here == passes
    assert found is None or found == pytest.approx(judged.parity.figures["embedding_cosine"], abs=1e-12)


def test_a_wrong_embedding_of_int8_is_refused_however_good_its_logits_are() -> None:
    """Formerly accepted: worst cosine 0.05, largest difference 4.2."""
    trained = 4 * EMBEDDING
    wrong = turned(trained, 0.05)
    difference = np.abs(wrong.astype(np.float64) - trained).max()
    judged = exported("int8", trained, wrong)
    assert judged.status == "rejected"
    assert judged.note == (
        f"rejected: the golden embedding differs by {difference:.3g} of up to {trained.max():.3g}, its cosine is 0.050 at worst"
    )
    assert judged.drop == 0
    assert not proved("int8", trained, wrong)[0]


def test_one_wrong_image_among_many_is_enough() -> None:
    wrong = EMBEDDING.copy()
    wrong[5] = turned(EMBEDDING, 0.3)[5]
    assert exported("int8", EMBEDDING, wrong).status == "rejected"
    assert not proved("int8", EMBEDDING, wrong)[0]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("share", "passes"), [(0.9, True), (1.1, False)])
def test_the_export_and_the_device_allow_a_float_variant_the_same_rounding(
    precision: str, share: float, passes: bool
) -> None:
    trained = (LOGITS + 10 * np.eye(8, 4)).astype(np.float32)
    trained[4:, 0] += 10  # every decision is clear, so that only the values differ
    got = trained.copy()
    got[2, 3] -= share * parity.TOLERANCE[precision] * np.abs(trained).max()
    judged = judge(variant(precision), {"logits": got}, {}, of_logits(trained), AccuracyBounds())
    assert (judged.status == "verified") == passes, judged.note
    golden = {"images": IMAGES, "logits": trained}
    if passes:
        assert prove(Answers(logits=got), variant(precision), golden, 8, CLASSIFICATION).agreement == 1
    else:
        with pytest.raises(BundleError, match="a golden logit differs by"):
            prove(Answers(logits=got), variant(precision), golden, 8, CLASSIFICATION)


@given(rows, st.floats(-100, 100))
def test_a_cosine_does_not_depend_on_lengths(a: NDArray[np.float32], exponent: float) -> None:
    """Not for the smallest float32 either: the product of two lengths is no measure of emptiness."""
    b = np.roll(a, 1, axis=1)
    scaled = a.astype(np.float64) * 2.0**exponent
    np.testing.assert_allclose(parity.cosines(scaled, b), parity.cosines(a, b), atol=1e-9)
    assert (parity.cosines(a, a) >= 1 - 1e-9).all()
    assert (np.abs(parity.cosines(a, b)) <= 1).all()


def test_a_cosine_is_that_of_the_textbook() -> None:
    a, b = EMBEDDING[:4], EMBEDDING[4:]
    expected = [
        sum(p * q for p, q in zip(x, y, strict=True)) / math.hypot(*x) / math.hypot(*y)
        for x, y in zip(a.tolist(), b.tolist(), strict=True)
    ]
    np.testing.assert_allclose(parity.cosines(a, b), expected, rtol=1e-12)
    tiny = np.full((1, 2), 1e-38, np.float32)
    assert parity.cosines(tiny, tiny * np.array([1, -1], np.float32)) == pytest.approx(0)
    assert parity.cosines(tiny, tiny) == pytest.approx(1)


def test_decibels_at_their_ends() -> None:
    assert parity.decibels(100, 1) == pytest.approx(20)
    assert parity.decibels(1, 0) == math.inf
    assert parity.decibels(0, 0) == math.inf
    assert parity.decibels(0, 1) == -math.inf
    assert parity.decibels(1, parity.noise(np.array([[np.nan]]), np.zeros((1, 1)))) == -math.inf
    assert parity.decibels(1, parity.noise(np.array([[np.inf]]), np.array([[np.inf]]))) == -math.inf


def test_the_search_and_the_bundle_measure_the_same_noise() -> None:
    got = (LOGITS + np.random.default_rng(3).normal(scale=0.1, size=LOGITS.shape)).astype(np.float32)
    judged = judge(variant("int8"), {"logits": got}, {}, of_logits(LOGITS), AccuracyBounds(max_drop=100))
    assert judged.parity is not None
    found = fidelity.compare(CLASSIFICATION, {"logits": got}, {"logits": LOGITS})
    assert (judged.parity.sqnr_db, judged.parity.agreement) == (found.sqnr_db, found.agreement)
    assert fidelity.compare(
        CLASSIFICATION, {"logits": np.full_like(got, np.nan)}, {"logits": LOGITS}
    ) == fidelity.Fidelity(0.0, -math.inf, 8)


def test_a_real_int8_variant_with_the_embedding_of_other_images_is_refused(tmp_path: Path) -> None:
    from edgekit.export import verify
    from tests.helpers import exported as digits

    bundle: Bundle = digits.export(tmp_path / "export", precisions=["int8"], embedding=True)
    test = digits.splits().test
    reference = ReferenceOutputs.of(
        CLASSIFICATION, verify.runner(digits.pixels(), CLASSIFICATION, embedding=True), test.images, test.labels
    )
    for made in bundle.manifest.variants:
        assert verify.verify(made, bundle.path, reference, AccuracyBounds()).status == "verified"
        other = replace(reference, further={"embedding": np.roll(reference.further["embedding"], 1, axis=0)})
        wrong = verify.verify(made, bundle.path, other, AccuracyBounds())
        assert wrong.status == "rejected"
        assert "the golden embedding differs by" in wrong.note


def test_the_graph_that_stands_for_tensorrt_is_held_against_the_embedding_too(tmp_path: Path) -> None:
    from edgekit.export import tensorrt, verify
    from tests.helpers import exported as digits

    bundle = digits.export(tmp_path / "export", targets=["trt"], precisions=["fp16"], embedding=True)
    (made,) = bundle.manifest.variants
    assert made.parity is not None
    assert made.parity.embedding_cosine is not None
    assert made.parity.embedding_cosine > 0.999
    test = digits.splits().test
    reference = ReferenceOutputs.of(
        CLASSIFICATION, verify.runner(digits.pixels(), CLASSIFICATION, embedding=True), test.images, test.labels
    )
    other = replace(reference, further={"embedding": np.roll(reference.further["embedding"], 1, axis=0)})
    graph = bundle.path / made.files[0].path
    assert tensorrt._judged(made, graph, reference, AccuracyBounds()).status == "verified"
    assert tensorrt._judged(made, graph, other, AccuracyBounds()).status == "rejected"
