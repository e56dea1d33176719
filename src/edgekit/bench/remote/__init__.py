"""Benches on remote devices, over the user's own OpenSSH client.

`address` reads `ssh://…`, `connection` is one multiplexed SSH connection, `on_device` is what runs at its other end (standard
library only), `wheel` packs the edgekit that runs here, `device` takes one device the whole way, `fan_out` several at once.
"""
