"""Training: the stages, the loop, pretraining methods, distillation, evaluation.

The package is also callable: `edgekit.train(…)` is `edgekit.api.training.train`.
"""
