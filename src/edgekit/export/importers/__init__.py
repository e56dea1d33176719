"""Importers: one module per kind of model that can be exported; each returns the same `ModelSource`."""
