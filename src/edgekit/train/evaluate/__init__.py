"""Evaluation: accuracy, kNN and linear probe, each number with the protocol that it was measured by."""

from edgekit.train.evaluate.features import apply, bank_name, bank_of, device_of, labels_of, outputs, several_outputs
from edgekit.train.evaluate.probes import (
    KNN_NEIGHBORS,
    KNN_TEMPERATURE,
    knn,
    linear_model,
    linear_models,
    linear_probe,
    neighbors_for,
)
from edgekit.train.evaluate.scores import (
    LAST,
    classifier_scores,
    encoder_knn,
    encoder_scores,
    per_class,
    quality_on,
    score_run,
    share,
    with_earlier_few_shot,
)

__all__ = [
    "KNN_NEIGHBORS",
    "KNN_TEMPERATURE",
    "LAST",
    "apply",
    "bank_name",
    "bank_of",
    "classifier_scores",
    "device_of",
    "encoder_knn",
    "encoder_scores",
    "knn",
    "labels_of",
    "linear_model",
    "linear_models",
    "linear_probe",
    "neighbors_for",
    "outputs",
    "per_class",
    "quality_on",
    "score_run",
    "several_outputs",
    "share",
    "with_earlier_few_shot",
]
