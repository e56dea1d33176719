"""Tables of accuracy: from few labels, of pretraining methods, of recognition and of unknown images."""

from __future__ import annotations

from statistics import mean
from typing import Any

from tools.site.tables.formats import percents, points, read, table

from edgekit.shares import difference, percent


def cifar10() -> str:
    """Mean of the label draws: what the unlabeled images are worth on CIFAR-10."""
    rows = []
    cells = read("cifar10")["cells"]
    for labels in sorted({cell["labels"] for cell in cells}):
        same = [cell for cell in cells if cell["labels"] == labels]
        gains = [difference(cell["student"], cell["supervised"]) for cell in same]
        values = [
            percents(mean(cell[key] for cell in same)) for key in ("teacher", "student", "student_int8", "supervised")
        ]
        gain = f"**{points(mean(gains))} points** ({points(min(gains))} to {points(max(gains))})"
        rows.append([f"{100 * labels:g} % ({same[0]['labelled_images']:,})", *values, gain])
    return table(
        ["labels", "teacher", "student", "INT8 student", "student from scratch", "gain from unlabeled images"], rows
    )


_SETS = {
    "mnist": "MNIST, 5,000",
    "fashion": "Fashion-MNIST, 6,000; no default was chosen on it",
    "photographs": "tiles of 14 photographs, 4,889",
    "digits": "scikit-learn's digits, 1,438",
    "textures": "textures, 4,992: tiles of 12 parts of two photographs, of other places in the test set",
    "cifar10": "CIFAR-10, 6,000",
    "shapes": "drawn shapes, 3,200, 64 px; no default was chosen on it",
    "tiles": "tiles of 14 photographs, 839, 128 px; no default was chosen on it",
}


def promise() -> str:
    """The recipe of `edgekit init`, unchanged, on four sets of images."""
    rows = []
    measured = read("promise")["cells"]
    names = [*_SETS, *dict.fromkeys(cell["set"] for cell in measured if cell["set"] not in _SETS)]
    for name in names:
        cells = sorted(
            (cell for cell in measured if cell["set"] == name), key=lambda cell: (cell["labels"], cell["draw"])
        )
        budgets = [cell["labels"] for cell in cells]
        for i, cell in enumerate(cells):
            low, high = cell["interval"]
            gain = f"{points(cell['gain'])}"
            interval = f"({points(low)} to {points(high)})"
            significant = low > 0 or high < 0
            gain = f"**{gain}** {interval}" if significant else f"{gain} {interval}: no significant difference"
            values = [percents(cell[key]) for key in ("student", "teacher", "frozen_probe", "scratch")]
            labels = f"{cell['labels']:g}" + (f", draw {cell['draw']}" if budgets.count(cell["labels"]) > 1 else "")
            rows.append(["" if i else _SETS.get(name, name), labels, *values, gain])
    head = [
        "images",
        "labels per class",
        "student",
        "teacher",
        "probe on the frozen encoder",
        "from scratch",
        "student minus scratch",
    ]
    return table(head, rows)


def gains() -> str:
    """Student and network from scratch, a set of images a row and a number of labels a column; the first draw of the labels."""
    first = {(cell["set"], cell["labels"]): cell for cell in read("promise")["cells"] if cell["draw"] == 0}
    budgets = sorted({labels for _, labels in first})
    rows = []
    for name, title in _SETS.items():
        cells = [first.get((name, labels)) for labels in budgets]
        if any(cells):
            rows.append([title, *(_gain(cell) for cell in cells)])
    return table(["images", *(f"{labels:g} label{'s' * (labels != 1)} per class" for labels in budgets)], rows)


def _gain(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "–"
    student, scratch = percents(cell["student"]), percents(cell["scratch"])
    low, high = cell["interval"]
    return (
        f"**{student}** / {scratch}"
        if low > 0
        else f"{student} / **{scratch}**"
        if high < 0
        else f"{student} / {scratch}"
    )


def methods() -> str:
    """Pretraining methods on the embedded digits, the best kNN of the trained ones first."""
    cells = read("methods_digits")["cells"]
    random = [cell for cell in cells if cell["row"] == "random weights"]
    trained = sorted((cell for cell in cells if cell["row"] != "random weights"), key=lambda cell: -cell["knn"])
    rows = [
        [cell["row"], *(percents(cell[key]) for key in ("knn", "linear", "teacher"))] for cell in [*random, *trained]
    ]
    return table(["method", "kNN", "linear probe", "teacher on 30 labels"], rows)


_REPRESENTATIONS = {
    "raw pixels": "raw pixels",
    "random encoder": "random encoder",
    "encoder": "pretrained encoder",
    "teacher": "teacher",
    "student, kd": "student, `distill.loss: kd`",
    "student, kd: onnx-int8": "its INT8, ONNX Runtime",
    "student, kd: openvino-int8": "its INT8, OpenVINO",
    "student, feature": "student, `distill.loss: feature`",
    "student, feature: onnx-int8": "its INT8, ONNX Runtime",
    "student, feature: openvino-int8": "its INT8, OpenVINO",
    "student, kd, mixed images": "student, `kd`, `distill.mixup: 0.5`",
    "student, feature, mixed images": "student, `feature`, `distill.mixup: 0.5`",
}


def recognition(name: str) -> str:
    """A gallery of classes that training did not see, by the network that embeds."""
    measured = {row["representation"]: row for row in read(name)["rows"]}
    rows = []
    for representation, shown in _REPRESENTATIONS.items():
        row = measured[representation]
        shots = [row[f"{count}-shot"] for count in (1, 5, 20)]
        one, *more = (percents(shot["top1"]) for shot in shots)  # of one image a class, the nearest is the only one
        nearest = (percents(shot["top1_of_the_nearest_image"]) for shot in shots[1:])
        rows.append(
            [
                shown,
                one,
                *(f"{top1} ({by_one})" for top1, by_one in zip(more, nearest, strict=True)),
                f"{row['auroc']:.2f}",
            ]
        )
    return table(["", "1 image, %", "5 images, %", "20 images, %", "AUROC"], rows)


_SCORES = {
    "distance, embedding": (
        "`distance`, with `--embedding`",
        "minus the squared Mahalanobis distance from the nearest class, in the embedding (Lee et al. 2018)",
    ),
    "distance, logits": ("`distance` (default)", "the same in the logits"),
    "probability": ("`probability`", "the highest calibrated probability (Hendrycks and Gimpel 2017)"),
    "energy": ("`energy`", "log sum exp of the logits (Liu et al. 2020)"),
}


def unknown_scores() -> str:
    """What tells unknown images from known ones, in INT8: means over networks and unknown sets."""
    means = {(row["near"], row["score"]): row for row in read("unknown")["summary"] if row["variant"] == "onnx-int8"}
    rows = []
    for score, (option, words) in _SCORES.items():
        cells = []
        for near in (False, True):
            found = means[near, score]
            cells += [percent(found["auroc"]), percent(found["false_accepts"])]
        rows.append([option, words, *cells])
    rows.append(["`never`", "none", "", "", "", ""])
    return table(
        ["`edgekit export --abstain`", "score", "AUROC, far unknowns", "accepted", "AUROC, near", "accepted"], rows
    )
