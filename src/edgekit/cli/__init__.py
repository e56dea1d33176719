"""The commands: one file each, parsing and printing, no logic."""

# The stages of a run, in order; named here too so that `--help` and tab-completion load no pydantic (a test compares them).
STAGES = ("data", "pretrain", "finetune", "distill", "supervised")
