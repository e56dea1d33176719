"""Run images through one variant of a bundle: from an image file to the answer of its task."""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from edgekit.arguments import Count, checked
from edgekit.bundle import Bundle, Variant
from edgekit.confidence import Confidence
from edgekit.errors import BundleError, DataError, EdgekitError, check_range, near
from edgekit.image_files import as_image
from edgekit.machine import cpu_features
from edgekit.pixel_range import Depth, PixelRangeWarning, is_deep
from edgekit.preprocess import MAX_PIXELS, bounded_decoding, to_rgb
from edgekit.processors import usable_cpus
from edgekit.runtimes import load, why_not
from edgekit.runtimes.session import check_images, run_in_batches
from edgekit.runtimes.trial import try_first
from edgekit.targets import PRECISIONS, find_runtime, rank
from edgekit.tasks import EMBEDDING, Answer, Outputs, Task
from edgekit.tasks.occlusion import Explanation, occlusion_map
from edgekit.tasks.task import is_finite
from edgekit.tasks.unknown import Known, threshold_fault
from edgekit.text import counted

if TYPE_CHECKING:
    from concurrent.futures import Future

    from PIL import Image

    from edgekit.image_files import ImageInput

_DECODERS = 8  # threads that decode the images of a batch
_Item = TypeVar("_Item")
_Image = TypeVar("_Image", bound="ImageInput")


class Predictor:
    """Answers about images with one variant of a bundle. As a context manager it closes itself at the end of the block.

    Args:
        bundle: an opened bundle.
        variant: the id of a variant; None: the choice of `default_variant`.
        threads: threads inside an operator; 0 leaves it to the runtime.
        max_pixels: larger images are refused.
        abstain: whether images unlike those that the model was trained on are answered with unknown, if the bundle has a rule for that.
        abstain_below: another threshold for it than the bundle's: images with a lower score are unknown.

    Attributes:
        known: the bundle's rule for unknown, of this variant; None if it has none.
        alarm: from which score on an image is anomalous, of this variant or else of the trained model; None if the bundle has none.
        preprocessing: how an image becomes the pixels that the model takes.
        depth: statistics of images with more than 8 bits per color since the predictor was made.

    Raises:
        BundleError: the variant is unknown, no variant was verified, or it cannot be loaded.
        RuntimeMissing: its runtime is not installed.
        EdgekitError: `abstain_below` is out of range, or the bundle has no rule for unknown.
    """

    def __init__(
        self,
        bundle: Bundle,
        variant: str | None = None,
        *,
        threads: int = 0,
        max_pixels: int = MAX_PIXELS,
        abstain: bool = True,
        abstain_below: float | None = None,
    ) -> None:
        self.variant = bundle.variant(variant) if variant else default_variant(bundle)
        self.task, self.classes = bundle.task, bundle.manifest.classes
        self.known = _known(bundle, self.variant, abstain=abstain, abstain_below=abstain_below)
        self.alarm = (self.variant.alarm or bundle.manifest.alarm) if self.task.alarms else None
        self._of_trained = self.known is not None and self.variant.confidence is None
        self._name = bundle.manifest.name
        self.preprocessing = bundle.manifest.preprocessing
        self.max_pixels = max_pixels
        self.depth, self._counting, self._warned = Depth(), Lock(), False
        try_first(bundle, self.variant, threads)
        self._session = load(bundle, self.variant, threads=threads)
        self.has_embedding = EMBEDDING in self._session.outputs

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        height, width = self.preprocessing.image_size
        what = counted(len(self.classes), "class", "classes") if self.classes else self.task.name
        return f"<Predictor {self._name}: {self.variant.id}, {what}, {height} x {width} pixels>"

    @overload
    def predict(
        self,
        source: list[_Image] | list[ImageInput] | tuple[ImageInput, ...],
        top: int = 3,
        threshold: float | None = None,
        *,
        batch: int = 1,
    ) -> list[Any]: ...

    @overload
    def predict(self, source: ImageInput, top: int = 3, threshold: float | None = None, *, batch: int = 1) -> Any: ...

    @checked()
    def predict(self, source: Any, top: Count = 3, threshold: float | None = None, *, batch: Count = 1) -> Any:
        """What the model says of one image, or of each of a list.

        Args:
            source: a path; the bytes of an encoded image; a PIL image; or a NumPy array of RGB pixels, uint8 (height, width, 3), of any
                size (OpenCV's arrays are BGR: pass `pixels[..., ::-1]`). Or a list or tuple of these, mixed as you like.
            top: how much to return per image: of a classification, the maximum number of classes.
            threshold: leave out classes that are less probable than this; with a gallery, the similarity up to which an image is
                unknown; of anomaly detection, the score above which an image is anomalous. None: leave nothing out; with a gallery, its own
                threshold; of anomaly detection, the bundle's.
            batch: images per run, for a list.

        Returns:
            The answer of the bundle's task, or a list of them in the order of the images: of a classification a `Prediction` each.

        Raises:
            EdgekitError: the threshold is not within `thresholds`: a probability is from 0 to 1, a similarity from -1 to 1, an anomaly score
                at least 0.
            DataError: an image cannot be read, or is none of these; of a list, the message says which one. To go on after such an
                image, use `predict_many`.
            BundleError: the model gives values that are not finite.
        """
        if not isinstance(source, (list, tuple)):
            with bounded_decoding():
                pixels = self._pixels(as_image(source, self.max_pixels))
            return self.predict_pixels(pixels[None], top, threshold)[0]
        found = []
        for number, (_, answer) in enumerate(self.predict_many(source, batch=batch, top=top, threshold=threshold)):
            if isinstance(answer, DataError):
                raise DataError(f"image {number} of the list: {answer.message}", answer.hint) from answer
            found.append(answer)
        return found

    @checked("image")
    def predict_image(self, image: Image.Image, top: Count = 3, threshold: float | None = None) -> Any:
        """What the model says of one PIL image, for instance a camera's frame. The same as `predict`, for one image only.

        Raises:
            DataError: it is not an image, or cannot be decoded.
            BundleError: the model gives values that are not finite.
        """
        return self.predict_pixels(self._pixels(as_image(image, self.max_pixels))[None], top, threshold)[0]

    @checked("pixels")
    def predict_pixels(self, pixels: NDArray[np.uint8], top: Count = 3, threshold: float | None = None) -> list[Any]:
        """Return answers for images that are already preprocessed as the bundle says.

        Args:
            pixels: uint8 (n, H, W, 3) with n >= 1 and the model's H and W.
            top: see `predict`.
            threshold: see `predict`.

        Raises:
            EdgekitError: the threshold is not within `thresholds`.
            DataError: another dtype or shape, or no image.
            BundleError: the model gives values that are not finite.
        """
        check_images(pixels, (*self.preprocessing.image_size, 3), None)
        if threshold is not None:
            check_range("threshold", threshold, *self.thresholds(self.task))
        return self.answers(self._outputs(pixels), top, threshold)

    @classmethod
    def thresholds(cls, task: Task) -> tuple[float, float]:
        """Return the least and the largest threshold of a task's answers: of a probability, or of an anomaly score."""
        return (0.0, math.inf) if task.alarms else (0.0, 1.0)

    @property
    def explains(self) -> bool:
        """Whether `explain` works: where the model's answer is a choice among classes."""
        return self.task.explains

    @checked("source")
    def explain(
        self, source: ImageInput, of: str | None = None, *, advance: Callable[[int], object] = lambda steps: None
    ) -> Explanation:
        """Which places of an image speak for a class: `edgekit.tasks.occlusion`. About 80 copies of the image are run.

        Args:
            source: an image, see `predict`.
            of: a class; None: the likeliest.
            advance: called with the number of copies after each run; `edgekit.tasks.occlusion.run_count` says how many there are.

        Raises:
            DataError: the image cannot be read; or there is no such class.
            BundleError: the bundle's answers are no choice among classes, or the model gives values that are not finite.
        """
        if not self.explains:
            raise BundleError(
                f"{self._name}: the answers of the task {self.task.name} are no choice among classes, so nothing speaks for one",
                "name a gallery, whose classes are" if self.has_embedding else "take a bundle of task classification",
            )
        names = self._class_names
        if of is not None and of not in names:
            raise DataError(
                f"{self._name} has no class {of}", near(of, names) or "leave the class out for the likeliest"
            )
        with bounded_decoding():
            image = as_image(source, self.max_pixels)
            pixels = self.preprocessing(image)
        chosen, heat = occlusion_map(
            pixels, self._scores, self._log_odds, None if of is None else names.index(of), advance=advance
        )
        return Explanation(names[chosen], heat)

    # What an explanation is of: the classes, their scores, and how these speak for one of them

    @property
    def _class_names(self) -> list[str]:
        return self.classes

    def _scores(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._outputs(pixels, self.task.main)[self.task.main]

    def _log_odds(self, scores: NDArray[np.floating[Any]], chosen: int) -> NDArray[np.float64]:
        return self.task.log_odds(scores, chosen)

    def _outputs(self, pixels: NDArray[np.uint8], only: str = "") -> Outputs:
        outputs = run_in_batches(self._session, pixels, len(pixels), only=only)
        if not is_finite(outputs):
            raise BundleError(
                f"{self.variant.id}: its outputs are not finite",
                "use another variant on this machine; `edgekit doctor BUNDLE` checks all of them",
            )
        return outputs

    def answers(self, outputs: Outputs, top: int, threshold: float | None) -> list[Answer]:
        """Return what outputs mean, image by image; `threshold` None leaves nothing out, or is the bundle's own."""
        if threshold is None and self.alarm is not None:
            threshold = self.alarm.threshold
        if self.known is None:
            return list(self.task.answers(outputs, self.classes, top, threshold))
        return list(self.task.answers_knowing(outputs, self.classes, top, threshold, self.known))

    @checked()
    def predict_many(
        self,
        items: Iterable[_Item],
        *,
        batch: Count = 1,
        top: Count = 3,
        threshold: float | None = None,
        read: Callable[[_Item], Image.Image] | None = None,
        ahead: bool = True,
    ) -> Iterator[tuple[_Item, Any]]:
        """Return answers for images one after another, in their order; they are decoded in parallel.

        Args:
            items: images as `predict` takes them; with `read`, anything.
            batch: images per run.
            top: see `predict`.
            threshold: see `predict`.
            read: converts an item to an upright image.
            ahead: decode the next batch while this one runs. Without it, an item is read only after all items before it are
                answered, as needed for a camera or a growing list.

        Yields:
            The item, and its answer, or the `DataError` if it cannot be read.

        Raises:
            BundleError: the model gives values that are not finite.
        """
        from concurrent.futures import ThreadPoolExecutor  # imported here, because a single image does not need it

        with ThreadPoolExecutor(min(_DECODERS, usable_cpus())) as pool:
            waiting: deque[list[tuple[_Item, Future[NDArray[np.uint8] | DataError]]]] = deque()
            rest = iter(items)
            while chunk := list(islice(rest, batch)):
                waiting.append([(item, pool.submit(self._decoded, item, read)) for item in chunk])
                if len(waiting) > ahead:
                    yield from self._finish(waiting.popleft(), top, threshold)
            while waiting:
                yield from self._finish(waiting.popleft(), top, threshold)

    def _finish(
        self, chunk: list[tuple[_Item, Future[NDArray[np.uint8] | DataError]]], top: int, threshold: float | None
    ) -> Iterator[tuple[_Item, Any]]:
        decoded = [(item, future.result()) for item, future in chunk]
        pixels = [result for _, result in decoded if not isinstance(result, DataError)]
        predictions = iter(self.predict_pixels(np.stack(pixels), top, threshold) if pixels else [])
        for item, result in decoded:
            yield item, result if isinstance(result, DataError) else next(predictions)

    def _decoded(self, item: Any, read: Callable[[Any], Image.Image] | None) -> NDArray[np.uint8] | DataError:
        try:
            with bounded_decoding():
                return self._pixels(as_image(read(item) if read is not None else item, self.max_pixels))
        except DataError as error:
            return error

    def _pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        deep, pixel_range = is_deep(image), self.preprocessing.pixel_range
        rgb = image if image.mode == "RGB" else to_rgb(image, pixel_range)
        depth = Depth()
        depth.add(image, rgb.getchannel(0) if deep else None, pixel_range)
        with self._counting:
            self.depth.merge(depth)
            warn = deep and pixel_range is None and not self._warned
            self._warned |= warn
        if warn:
            warnings.warn(
                "the bundle has no pixel_range for images of more than 8 bits: they are scaled by their number type, and few gray "
                "levels may remain (see docs/bundle.md)",
                PixelRangeWarning,
                stacklevel=2,
            )
        return self.preprocessing(rgb)

    def notes(self, where: str) -> list[str]:
        """Return notes for the user about the images so far and their answers, one sentence each.

        Args:
            where: name of the images in the notes.
        """
        pixel_range = self.preprocessing.pixel_range
        if pixel_range is None:
            hint = "the bundle has no pixel_range: train or export it again with such images to set one"
        else:
            hint = "check that they are the same kind of images as those that set the bundle's range"
        notes = self.depth.notes(where, pixel_range, hint, always=False)
        if self.alarm is not None and self.variant.alarm is None:
            notes.append(
                f"{self.variant.id} did not run where the bundle was exported: its threshold is the trained model's, not its own"
            )
        if self._of_trained:
            notes.append(
                f"{self.variant.id} did not run where the bundle was exported: probabilities and unknown are by the trained model's "
                "calibration, not by its own"
            )
        return notes

    def close(self) -> None:
        """Release the model."""
        self._session.close()


def _known(bundle: Bundle, variant: Variant, *, abstain: bool, abstain_below: float | None) -> Known | None:
    """The rule for unknown of a variant, with the user's threshold.

    Raises:
        EdgekitError: it has none and a threshold is given, or no image can have such a score.
    """
    known = bundle.known(variant)
    if abstain_below is None:
        return known if known is None or abstain else replace(known, abstains=False)
    if not abstain:
        raise EdgekitError("a threshold for unknown, and no unknown: these exclude each other", "leave one of them out")
    if known is None or not isinstance(known.confidence, Confidence):
        raise BundleError(
            f"{bundle.path}: has no rule for unknown, so there is no score to compare with {abstain_below:g}",
            "export it again from a run with at least 20 probe images, or with --evaluate IMAGES",
        )
    if fault := threshold_fault(known.confidence.rule, abstain_below):
        raise EdgekitError(
            f"the threshold for unknown: {fault}",
            f"the bundle's own is {known.confidence.threshold:g}; its score is the {known.confidence.rule}",
        )
    return replace(known, confidence=known.confidence.model_copy(update={"threshold": abstain_below}))


def default_variant(bundle: Bundle) -> Variant:
    """Return the default variant: verified, runnable here, and the fastest of those whose speed is known for this kind of CPU.

    The speed is the one measured at export, and is used if this machine has the same instruction-set extensions. INT8 variants that
    were not faster than float in their runtime are not chosen; float variants use their runtime's float time. On another kind of
    machine the speed is unknown: the order is fp32, fp16, int8, and for one precision the order of runtimes in `edgekit.targets`.

    Raises:
        BundleError: no variant was verified.
        RuntimeMissing: no verified variant can run on this machine.
    """
    verified = [v for v in bundle.manifest.variants if v.status == "verified"]
    if not verified:
        raise BundleError(f"{bundle.path}: has no verified variant", "choose one with --variant, or export again")
    runnable = [v for v in verified if why_not(v.runtime) is None]
    if not runnable:
        missing = why_not(verified[0].runtime)
        assert missing is not None
        raise missing
    isa = cpu_features()
    known = {v.id: v.speed for v in runnable if v.speed is not None and v.speed.isa == isa}
    of_float = {v.runtime: known[v.id].float_p50_ms for v in runnable if v.id in known}

    def preference(v: Variant) -> tuple[bool, bool, float, int, int]:  # the first difference decides
        runtime = find_runtime(v.runtime)
        speed = known.get(v.id)
        not_faster = speed is not None and speed.outcome != "faster"
        p50 = speed.p50_ms if speed is not None else of_float.get(v.runtime) if v.precision != "int8" else None
        return (
            runtime is not None and not runtime.timed,
            not_faster,
            p50 if p50 is not None else math.inf,
            PRECISIONS.index(v.precision),
            rank(v.runtime),
        )

    return min(runnable, key=preference)
