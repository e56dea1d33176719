"""Answer with a gallery: a bundle's model embeds an image, and the gallery names the nearest class, or says that there is none."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Bundle
from edgekit.errors import BundleError, DataError
from edgekit.gallery.content import Gallery
from edgekit.gallery.record import SIMILARITIES, Agreement, features, model_digest, variant_digest
from edgekit.parity import cosines
from edgekit.preprocess import MAX_PIXELS
from edgekit.runtimes.predictor import Predictor
from edgekit.runtimes.session import run_in_batches
from edgekit.shares import percent
from edgekit.tasks import EMBEDDING, UNKNOWN, Answer, Outputs, Task
from edgekit.tasks.occlusion import log_odds
from edgekit.tasks.recognition import TEMPERATURE

LEAST_AGREEMENT = 0.9  # of a variant with the one that made the gallery, below which there is a warning


class GalleryWarning(UserWarning):
    """The variant that answers may name other classes than the one that made the gallery."""


@dataclass(frozen=True)
class Recognition(Answer):
    """What a gallery says about one image.

    Attributes:
        nearest: classes with their similarity, the mean cosine with their nearest images, the most similar class first.
        threshold: at this similarity and below an image is unknown; None: it never is.
        embedding: float32 (features,), as the model gives it.
    """

    nearest: list[tuple[str, float]]
    threshold: float | None = None
    embedding: NDArray[np.float32] | None = None

    @property
    def known(self) -> bool:
        """Whether the nearest class is near enough."""
        return self.threshold is None or self.nearest[0][1] > self.threshold

    @property
    def unknown(self) -> bool:  # type: ignore[override]  # of a task that decides it at once, an attribute
        """Whether no class is near enough."""
        return not self.known

    @property
    def name(self) -> str:
        """The nearest class, or `unknown`."""
        return self.nearest[0][0] if self.known else UNKNOWN

    @property
    def similarity(self) -> float:
        """The similarity with the most similar class."""
        return self.nearest[0][1]

    def line(self) -> str:
        """`mug 0.912  bowl 0.655`, or `unknown (mug 0.312  bowl 0.204)`."""
        listed = "  ".join(f"{name} {similarity:.3f}" for name, similarity in self.nearest)
        return listed if self.known else f"{UNKNOWN} ({listed})"

    def as_json(self) -> dict[str, Any]:
        """The class, or `unknown`, and the nearest classes with their similarities."""
        return {
            "class": self.name,
            "unknown": self.unknown,
            "similarity": round(self.similarity, 6),
            "threshold": None if self.threshold is None else round(self.threshold, 6),
            "nearest": [{"class": name, "similarity": round(value, 6)} for name, value in self.nearest],
        }


class Recognizer(Predictor):
    """A predictor whose answers come from a gallery.

    Args:
        bundle: an opened bundle, of the model that made the gallery's embeddings.
        gallery: a gallery, or its path.
        variant, threads, max_pixels: see `Predictor`.

    Attributes:
        gallery: the gallery.
        doubt: why this variant may name other classes than the one that made the gallery; empty where it does not.

    Raises:
        DataError: the gallery is missing or damaged, or was made with another bundle.
        BundleError: the bundle's graphs give no embedding; and as `Predictor`.
        RuntimeMissing: see `Predictor`.
    """

    def __init__(
        self,
        bundle: Bundle,
        gallery: Gallery | Path | str,
        variant: str | None = None,
        *,
        threads: int = 0,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        where = "the gallery" if isinstance(gallery, Gallery) else str(gallery)
        self.gallery = gallery if isinstance(gallery, Gallery) else Gallery.open(gallery)
        require_embedding(bundle)
        require_same_model(bundle, self.gallery, where)
        super().__init__(bundle, variant, threads=threads, max_pixels=max_pixels)
        require_session_embedding(bundle, self)
        self.doubt = self._doubt(bundle)
        if self.doubt:
            warnings.warn(self.doubt, GalleryWarning, stacklevel=2)

    def __enter__(self) -> Recognizer:
        return self

    def answers(self, outputs: Outputs, top: int, threshold: float | None) -> list[Answer]:
        """The `top` nearest classes of each image.

        Args:
            outputs: of the model, the embedding among them.
            top: number of classes.
            threshold: at this similarity and below an image is unknown; None: the gallery's own threshold.
        """
        least = self.gallery.threshold if threshold is None else threshold
        embeddings = outputs[EMBEDDING]
        found = self.gallery.nearest(embeddings, top)
        return [Recognition(nearest, least, embedding) for nearest, embedding in zip(found, embeddings, strict=True)]

    @classmethod
    def thresholds(cls, task: Task) -> tuple[float, float]:
        """Return the least and the largest similarity, a cosine."""
        return SIMILARITIES

    @property
    def explains(self) -> bool:
        """A gallery's answer is a choice among its classes."""
        return True

    @property
    def _class_names(self) -> list[str]:
        return self.gallery.classes

    def _scores(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Similarities as logits: the softmax that InstDisc makes of cosines."""
        return self.gallery.similarities(self._outputs(pixels)[EMBEDDING]) / np.float32(TEMPERATURE)

    def _log_odds(self, scores: NDArray[np.floating[Any]], chosen: int) -> NDArray[np.float64]:
        return log_odds(scores, chosen)

    def _doubt(self, bundle: Bundle) -> str:
        record, own = self.gallery.record, self.variant.id
        if record.variant == own and record.variant_sha256 == variant_digest(bundle, own):
            return ""
        found = record.agreement.get(own) if record.variant != own else None
        of = "the gallery's images"
        if found is None:
            found, of = self._on_golden_images(bundle), "the bundle's golden images"
        return doubt_about(own, record.variant, found, of)

    def _on_golden_images(self, bundle: Bundle) -> Agreement:
        """How this variant agrees with the trained model, whose embeddings of the golden images are in the bundle."""
        golden = bundle.golden_outputs()
        trained = golden[EMBEDDING]
        got = run_in_batches(self._session, golden["images"], len(trained))[EMBEDDING]
        if not np.isfinite(got).all():
            return Agreement(images=len(trained), agreed=0, cosine=0.0)
        chosen, expected = (self.gallery.similarities(rows).argmax(1) for rows in (got, trained))
        cosine = float(cosines(got, trained).mean())
        return Agreement(images=len(trained), agreed=int((chosen == expected).sum()), cosine=cosine)


def doubt_about(variant: str, maker: str, found: Agreement, of: str) -> str:
    """Return why a variant may name other classes than the gallery's, in a sentence; empty where it agrees well enough."""
    if found.share >= LEAST_AGREEMENT:
        return ""
    return (
        f"{variant} names the class that {maker}, which made the gallery, names for {percent(found.share, 0)} of {of} alone "
        f"(mean cosine {found.cosine:.3f}): to predict with {variant}, create the gallery with --variant {variant}"
    )


def require_embedding(bundle: Bundle) -> None:
    """Refuse a bundle whose graphs give no embedding.

    Raises:
        BundleError: they give none.
    """
    if bundle.task.alarms:
        raise BundleError(
            f"{bundle.path}: a bundle of the task {bundle.task.name} has no embedding, which a gallery needs",
            "use a bundle of task classification or recognition",
        )
    if features(bundle) is None:
        run = bundle.manifest.provenance.get("run")
        again = f"export it again with `edgekit export {run if isinstance(run, str) else 'RUN'} --embedding`"
        raise BundleError(f"{bundle.path}: its graphs give no embedding, which a gallery needs", again)


def require_session_embedding(bundle: Bundle, predictor: Predictor) -> None:
    """Refuse a variant that lacks the output that the bundle lists.

    Raises:
        BundleError: it gives no embedding.
    """
    if not predictor.has_embedding:
        others: Sequence[str] = [v.id for v in bundle.manifest.variants if v.id != predictor.variant.id]
        raise BundleError(
            f"{bundle.path}: {predictor.variant.id} has no embedding output, which a gallery needs",
            f"choose another variant with --variant: {', '.join(others)}" if others else "export the bundle again",
        )


def require_same_model(bundle: Bundle, gallery: Gallery, where: str) -> None:
    """Refuse a gallery whose embeddings another model made.

    Raises:
        DataError: the digests differ.
    """
    record = gallery.record
    if record.model != (digest := model_digest(bundle)):
        raise DataError(
            f"{where}: made with another bundle: {record.bundle}, model {record.model[:12]}, not {bundle.manifest.name}, "
            f"model {digest[:12]}",
            f"create a gallery for this bundle with `edgekit gallery create {bundle.path} FOLDER`",
        )
