"""Train, evaluate and export from Python: the words and the results are those of the commands.

python examples/train_from_python.py          # scikit-learn's digits; a few minutes on two cores
python examples/train_from_python.py --quick  # seconds, and a student that has learned little
"""

import sys
from pathlib import Path

import edgekit

recipe = Path(__file__).with_name("digits.yaml")
overrides = {}
if "--quick" in sys.argv:
    overrides = {f"{stage}.epochs": 4 for stage in ("pretrain", "finetune", "distill", "supervised")}
    overrides |= {f"{stage}.optimizer.warmup_epochs": 0 for stage in ("pretrain", "distill", "supervised")}

# `edgekit.train(recipe)` alone would do; on_stage is called after each stage.
run = edgekit.train(
    recipe, overrides=overrides, on_stage=lambda report, draw: print(f"{report.stage}: {report.outcome}")
)

scores = edgekit.evaluate(run).measurement.scores
for score in scores:
    print(f"{score.model}, {score.metric}: {100 * score.value:.1f} %")

# Verified before it is called good: where a variant loses too much accuracy, this raises edgekit.EdgekitError.
bundle = edgekit.export(run, target="onnx", precision="fp32")
print(f"bundle: {bundle.path}")
print(f"report: {edgekit.report(run)}")
