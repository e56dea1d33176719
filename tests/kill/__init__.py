"""Commands killed, or met by a full disk, at each change that they make to the file system; `python -m tests.kill --help`."""
