"""Train, evaluate and export from Python, with the same names and results as the commands.

python examples/train_from_python.py          # scikit-learn's digits; a few minutes on two cores
python examples/train_from_python.py --quick  # takes seconds, with low accuracy
"""

import sys
from pathlib import Path

import edgekit

recipe = Path(__file__).with_name("digits.yaml")
overrides = {}
if "--quick" in sys.argv:
    overrides = {f"{stage}.epochs": 4 for stage in ("pretrain", "finetune", "distill", "supervised")}
    overrides |= {f"{stage}.optimizer.warmup_epochs": 0 for stage in ("pretrain", "distill", "supervised")}

# `edgekit.train(recipe)` is enough; on_stage is called after each stage.
run = edgekit.train(
    recipe, overrides=overrides, on_stage=lambda report, draw: print(f"{report.stage}: {report.outcome}")
)

scores = edgekit.evaluate(run).measurement.scores
for score in scores:
    print(f"{score.model}, {score.metric}: {100 * score.value:.1f} %")

# Every variant is verified: if one loses too much accuracy, this raises edgekit.EdgekitError.
bundle = edgekit.export(run, target="onnx", precision="fp32")
print(f"bundle: {bundle.path}")
print(f"report: {edgekit.report(run)}")
