"""Tables of training: fine-tuning, distillation, losses, and the speed of pretraining."""

from __future__ import annotations

from statistics import mean
from typing import Any

from tools.site.tables.formats import percents, read, table

_COLUMNS = [
    (name, title, labels)
    for name, title in (("digits", "digits"), ("mnist", "MNIST"), ("textures", "textures"), ("cifar10", "CIFAR-10"))
    for labels in (1, 10)
]
# Each row: its name in the file, whether its cells are those of the fewest steps or of the most, and its title.
_TEACHERS = (
    ("before: zero head, one projection layer, strong crops", min, "before"),
    ("before, four times the steps", min, "before"),
    ("linear first, no consistency", min, "linear first, no consistency"),
    ("linear first, no consistency, four times the steps", min, "linear first, no consistency"),
    ("default", min, "default"),
    ("default", max, "default"),
    ("default, four times the steps", min, "default"),
)


def finetuning() -> str:
    """Return the accuracy of fine-tuned networks by how they were trained: the first draw of the labels."""
    found: dict[tuple[str, str, float], dict[int, dict[str, Any]]] = {}
    for cell in read("finetune_ablation")["cells"]:
        if cell["draw"] == 0:
            found.setdefault((cell["row"], cell["set"], cell["labels"]), {})[cell["steps"]] = cell
    frozen = (found["default", name, labels] for name, _, labels in _COLUMNS)
    rows = [["linear probe, frozen encoder", "", *(percents(by_steps[min(by_steps)]["frozen"]) for by_steps in frozen)]]
    for row, chosen, title in _TEACHERS:
        choices = [found.get((row, name, labels)) for name, _, labels in _COLUMNS]
        cells = [by_steps[chosen(by_steps)] if by_steps else None for by_steps in choices]
        steps = sorted({cell["steps"] for cell in cells if cell})
        rows.append([title, " to ".join(map(str, dict.fromkeys((steps[0], steps[-1])))), *map(_tuned, cells)])
    return table(["teacher", "steps", *(f"{title}, {labels}" for _, title, labels in _COLUMNS)], rows)


def _tuned(cell: dict[str, Any] | None) -> str:
    return percents(cell["finetuned"]) if cell else "–"


_STUDENTS = {
    "neither": "neither",
    "mixed images": "mixed images (the default)",
    "start from the encoder": "start from the encoder",
    "both": "both",
}
_SETS = {
    "textures-10": "textures, 10 labels a class",
    "textures-50": "textures, 50",
    "photographs-1": "photographs, 1",
    "photographs-5": "photographs, 5",
    "photographs-10": "photographs, 10",
    "photographs-50": "photographs, 50",
    "mnist-1": "MNIST, 1",
}


def distillation() -> str:
    """Return the accuracy of students by what they learn from and where they start; the best of a column in bold."""
    measured = read("distillation")["rows"]
    found = {(row["way"], row["cell"]): row["student"] for row in measured}
    best = {name: max(share for (_, cell), share in found.items() if cell == name) for name in _SETS}
    rows = []
    for way, title in _STUDENTS.items():
        shares = ((found.get((way, name)), best[name]) for name in _SETS)
        rows.append([title, *(f"**{percents(share)}**" if share == top else percents(share) for share, top in shares)])
    teachers = {row["cell"]: row["teacher"] for row in measured}
    rows.append(["its teacher", *(percents(teachers[name]) for name in _SETS)])
    return table(["test accuracy of the student, %", *_SETS.values()], rows)


_SCORES = {
    "mAP": "map",
    "micro F1 with 0.5": "f1_micro_half",
    "micro F1, one threshold for all classes": "f1_micro_shared",
    "micro F1, a threshold for each class": "f1_micro_each",
    "macro F1, one threshold for all classes": "f1_macro_shared",
    "macro F1, a threshold for each class": "f1_macro_each",
}


def multilabel_losses() -> str:
    """Return the scores of two losses for several classes an image: means of the seeds."""
    measured = read("multilabel_losses")["rows"]
    sets = {
        "mosaics of digits": "mosaics of digits, 10 classes",
        "shapes": "drawn shapes, 6 classes in 50 to 3 % of the images",
    }
    rows = []
    for title, key in _SCORES.items():
        cells = []
        for name in sets:
            of_set = [row for row in measured if row["data"] == name]
            scores = (
                mean(row[key] for row in of_set if row["loss"].startswith(loss)) for loss in ("bce", "asymmetric")
            )
            cells.append(" / ".join(map(percents, scores)))
        rows.append([title, *cells])
    return table(["`bce` / `asymmetric`, %", *sets.values()], rows)


def pretraining_speed() -> str:
    """Return the speed of a whole SimCLR step beside LightlySSL's example, and where edgekit's step spends its time."""
    rows = []
    for row in read("pretrain_throughput")["rows"]:
        speeds = {side: mean(r[side]["images_per_second"] for r in row["rounds"]) for side in ("edgekit", "lightly")}
        width = "" if row["width"] == 1 else f" ×{row['width']:g}"
        each = ", ".join(f"{ratio:.2f}" for ratio in row["ratios"])
        accounts = [r["edgekit"]["account"] for r in row["rounds"]]
        parts = [
            f"{100 * mean(account[part] for account in accounts):.0f} %"
            for part in ("augmentation", "forward and loss", "backward and update")
        ]
        rows.append(
            [
                f"ResNet-18{width}, {row['size']} px",
                str(row["batch"]),
                f"{speeds['edgekit']:.0f}",
                f"{speeds['lightly']:.0f}",
                f"{row['ratio']:.2f} ({each})",
                *parts,
            ]
        )
    head = ["encoder, images", "batch", "edgekit, images/s", "LightlySSL, images/s", "ratio (each round)"]
    return table([*head, "augmentation", "forward and loss", "backward and update"], rows)


def pruning() -> str:
    """Return what a pruned network of `edgekit search --prune` gains over everything else within its budget."""
    found = read("pruning")
    # Each network: its name in the file, that of the network whose time is its own, and its title. The pruned network and the same layers with new
    # weights take the same time.
    networks = (
        ("pruned", "the pruned channels from new weights", "pruned"),
        ("smaller, as the search trains it", "smaller", "the smaller candidate as the search trains it"),
        ("smaller", "smaller", "the smaller candidate"),
        (
            "the pruned channels from new weights",
            "the pruned channels from new weights",
            "the pruned network's channels, from new weights",
        ),
        ("finer width", "finer width", f"width {found['finer_width']}, of a finer list"),
    )
    times = [seed["p50_against_smaller"] for seed in found["seeds"]]
    rows = []
    for name, timed, title in networks:
        minus = found["pruned_minus"].get(name)
        difference = f"{minus['mean']:+.1f} ± {minus['standard_deviation']:.1f}".replace("-", "−") if minus else ""
        p50 = f"{mean(time[timed] for time in times):.1f}"
        rows.append([title, str(found["epochs"][name]), p50, percents(found["test_mean"][name]), difference])
    return table(["network", "epochs", "p50", "test accuracy, %", "pruned minus it, points"], rows)
