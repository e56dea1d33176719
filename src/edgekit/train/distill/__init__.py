"""Distillation: teachers, losses, and the student's training task."""
