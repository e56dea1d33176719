"""The stages of a run, in order, and what each of them trains."""
