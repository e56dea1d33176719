"""The commands, one file each: they parse arguments and print; the logic is elsewhere."""
