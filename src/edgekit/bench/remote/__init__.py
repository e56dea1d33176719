"""Benches on remote devices, through the user's own OpenSSH client.

`address` parses `ssh://…`, `connection` is a multiplexed SSH connection, `on_device` is the program that runs on the device
(standard library only), `wheel` packs the running edgekit, `device` does all steps for one device, `fan_out` for several at once.
"""
