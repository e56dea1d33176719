"""Image sources, splits and label budgets; augmentation on the training device."""
