"""Stage folders and their records: what a stage is made from, and whether it is complete, reusable or unfinished."""
