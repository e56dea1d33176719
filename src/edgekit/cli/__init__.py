"""The commands: one file each, parsing and printing, no logic."""
