"""Analyses of a trained encoder: embeddings, neighbors, label suggestions, transfer, mirror symmetry."""
