"""Training: the stages, the loop, pretraining methods, distillation, evaluation.

It can be called, too: `edgekit.train(…)` is `edgekit.api.training.train`, which its signature shows.
"""
