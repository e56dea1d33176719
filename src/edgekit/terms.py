"""What the terms on a report and in the tables of the commands mean, in one sentence each.

The report explains those that it uses, `edgekit evaluate` those of its tables, and the documentation has a page of all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """A term and its meaning; `forms` are other words that stand for the same."""

    name: str
    meaning: str
    forms: tuple[str, ...] = ()

    def in_text(self, text: str) -> bool:
        """Whether a text has this term as a whole word; an abbreviation such as ECE or mAP only as it is spelled."""
        return any(
            re.search(rf"(?<!\w){re.escape(form)}(?!\w)", text, 0 if _abbreviation(form) else re.IGNORECASE)
            for form in (self.name, *self.forms)
        )


def _abbreviation(form: str) -> bool:
    return form.isupper() or sum(map(str.isupper, form)) > 1


TERMS = {
    "Images and labels": (
        Term("pool", "the images that training sees without their labels", ("unlabeled images",)),
        Term("label budget", "the few labeled images that a network may learn from", ("labels",)),
        Term(
            "probe set",
            "labeled images that choose among settings, measure the encoder, and calibrate probabilities; no network of the run is trained on them",
            ("probe images",),
        ),
        Term(
            "test set",
            "labeled images that only measure: no network is trained and no setting chosen on them",
            ("test images",),
        ),
        Term("draw", "a random choice of the labeled images, decided by a seed", ("draws",)),
        Term(
            "augmentation", "random changes of an image, such as crop, flip and color; a changed image is called a view"
        ),
    ),
    "Models": (
        Term(
            "encoder",
            "the network that makes a vector of numbers, the features, of an image; pretraining teaches it without labels",
        ),
        Term("teacher", "the encoder, fine-tuned on the label budget"),
        Term("projection", "the output of the layers behind the encoder that only pretraining needs", ("projections",)),
        Term("pseudo-labels", "classes that a model predicts for unlabeled images, used as labels", ("pseudo-label",)),
        Term("student", "the small network for the device, trained to give the teacher's answers on the pool"),
        Term("from scratch", "the same network as the student, trained only on the label budget", ("supervised",)),
        Term("embedding", "a vector of numbers that a model gives for an image; similar images have similar vectors"),
        Term("gallery", "a file with the embeddings of a few images of each class, which names the class of an image"),
        Term("detector", "the model of anomaly detection: it has learned from normal images only"),
    ),
    "Scores": (
        Term("top-1", "share of the images whose most probable class is right", ("top1",)),
        Term("top-5", "share of the images whose class is among the five most probable", ("top5",)),
        Term(
            "kNN",
            "the vote of the k labeled images that are most similar to an image by the encoder's features",
            ("knn",),
        ),
        Term("nearest centroid", "the class whose mean features are most similar to those of the image", ("centroid",)),
        Term("logistic regression", "a linear classifier that gives probabilities", ("logistic",)),
        Term("linear probe", "a linear classifier on the features of the encoder, which stays as it is", ("linear",)),
        Term(
            "95 % interval",
            "a range that contains the true value in 95 of 100 such measurements",
            ("95\u00a0% interval",),
        ),
        Term(
            "McNemar's p",
            "how probable a difference of at least this size is between two models that are equally good",
        ),
        Term("point", "difference of 1 % in a share: from 90 % to 92 % are two points", ("points",)),
        Term(
            "AUROC",
            "probability that the score puts two images, such as an anomalous and a normal one, in the right order; 50 % is guessing",
        ),
        Term(
            "PRO",
            "share of each defect's area that is found, averaged over the defects and over thresholds with few false alarms",
        ),
        Term("F1", "harmonic mean of precision (how much of what it names is right) and recall (how much it names)"),
        Term("mAP", "mean over the classes of the average precision: how well the scores sort the images of a class"),
    ),
    "Variants": (
        Term("variant", "the model in one file format and precision, for one runtime", ("variants",)),
        Term("FP32", "floating-point numbers of 32 bits; FP16: of 16 bits", ("FP16", "float")),
        Term("INT8", "whole numbers of 8 bits: a quarter of the size, and often faster"),
        Term(
            "verified",
            "ran in its runtime and lost no more accuracy than is allowed; rejected: lost more; unexecuted: cannot run on this machine",
        ),
        Term(
            "golden images",
            "images in the bundle, with the trained model's answers: with them every device checks its own results",
            ("golden tensors",),
        ),
        Term("drop", "accuracy of the trained model minus that of a variant"),
        Term("agreement", "share of the images on which a variant decides as the trained model does", ("agrees",)),
        Term(
            "logit", "a network's score of a class, before it becomes a probability", ("logits", "Δlogit", "|Δ logit|")
        ),
        Term("SQNR", "signal-to-quantization-noise ratio in decibels (dB): 6 dB more is half the error of the outputs"),
        Term(
            "calibration",
            "choosing the range of INT8 numbers by what the network computes for some images; of probabilities: choosing the temperature",
            ("calibrated",),
        ),
        Term("VNNI", "instructions of newer x86 processors that make INT8 fast"),
        Term("lint", "a check of a file by rules, without running it"),
    ),
    "Probabilities": (
        Term(
            "temperature (T)",
            "the number that scores are divided by before they become probabilities: the higher, the less sure they are",
            ("T",),
        ),
        Term("ECE", "expected calibration error: how far the probabilities are from the accuracy; 0 is best"),
        Term("NLL", "negative log-likelihood: how improbable the model finds the right classes; 0 is best"),
        Term("unknown", "the answer for an image that is unlike the images that the model learned from"),
    ),
    "Latency": (
        Term("p50", "the median: half of the runs are faster; p90, p99: 90 and 99 of 100 are", ("p90", "p99")),
        Term(
            "coefficient of variation",
            "standard deviation divided by the mean; high values mean that something disturbed the measurement",
            ("cv",),
        ),
        Term("batch", "the number of images of one run"),
        Term("Pareto front", "the variants for which no other variant is both more accurate and faster"),
        Term("quick", "a measurement too short for its high percentiles: a first look"),
    ),
}  # by subject, in the order in which a report needs them


def used(text: str) -> list[Term]:
    """Return the terms that a text uses, in the order of `TERMS`."""
    return [term for terms in TERMS.values() for term in terms if term.in_text(text)]
