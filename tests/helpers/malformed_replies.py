"""What a device must not answer, by the verb that it answers: each was a traceback, a hang or worse, or is a sibling of one that was."""

from __future__ import annotations

import json
from typing import Any

DIGEST = "0" * 64
ABSURD = 10**400
DEEP = "[" * 100_000
PROBE = {
    "python": "3.11.2", "executable": "/usr/bin/python3", "architecture": "aarch64", "root": "/home/pi/.cache", "missing": [],
    "gpu": False,
}  # fmt: skip
DATA = {"event": "data", "path": "results/a.json", "bytes": 3, "sha256": DIGEST}


def probe(**other: Any) -> str:
    return json.dumps({"reply": {**PROBE, **other}})


MALFORMED = {
    "nothing": ("probe", ""),
    "no JSON": ("probe", "{"),
    "cut off": ("probe", probe()[:40]),
    "no UTF-8": ("probe", '{"reply": "\xff\xfe"}'),
    "a list": ("probe", "[1, 2]"),
    "a number": ("probe", "7"),
    "null": ("probe", "null"),
    "an empty object": ("probe", "{}"),
    "nested deep": ("probe", DEEP),
    "nested deep in a reply": ("probe", '{"reply": ' + DEEP),
    "NaN": ("probe", "NaN"),
    "a number of 5,000 digits": ("offer", '{"reply": {"missing": {}, "free": ' + "9" * 5000 + "}}"),
    "a reply that is null": ("probe", '{"reply": null}'),
    "a reply that is a list": ("probe", '{"reply": []}'),
    "a reply that is text": ("probe", '{"reply": "yes"}'),
    "an empty reply": ("probe", '{"reply": {}}'),
    "a key too few": ("probe", json.dumps({"reply": {k: v for k, v in PROBE.items() if k != "gpu"}})),
    "a key too many": ("probe", probe(more=1)),
    "beside the reply": ("probe", '{"reply": {}, "more": 1}'),
    "a wrong type": ("probe", probe(missing="numpy")),
    "text for yes or no": ("probe", probe(gpu="yes")),
    "a number for text": ("probe", probe(python=3)),
    "a relative program": ("probe", probe(executable="python3")),
    "a NUL in a path": ("probe", probe(executable="/usr/bin/python\0")),
    "an escape in a path": ("probe", probe(root="/home/\x1b[2J")),
    "a newline in a name": ("probe", probe(architecture="arm\nerror: forged")),
    "half a character": ("probe", '{"reply": {"python": "\\ud800"}}'),
    "a long name": ("probe", probe(python="3" * 100_000)),
    "many names": ("probe", probe(missing=["numpy"] * 100_000)),
    "an error that is no text": ("probe", '{"error": {}, "full": false}'),
    "an error without more": ("probe", '{"error": "broken"}'),
    "an unknown event": ("probe", '{"event": "party"}'),
    "an event that is a list": ("probe", '{"event": ["say"]}'),
    "an event of another verb": ("probe", json.dumps(DATA)),
    "no digest": ("offer", '{"reply": {"missing": {"../../etc/passwd": 0}, "free": 9}}'),
    "less than nothing": ("offer", f'{{"reply": {{"missing": {{"{DIGEST}": -1}}, "free": 9}}}}'),
    "infinitely free": ("offer", '{"reply": {"missing": {}, "free": Infinity}}'),
    "half a byte": ("offer", '{"reply": {"missing": {}, "free": 0.5}}'),
    "damaged names": ("store", '{"reply": {"damaged": ["x"]}}'),
    "damaged is a number": ("store", '{"reply": {"damaged": 7}}'),
    "an environment nowhere": ("environment", '{"reply": {"python": "", "extras": [], "failed": {}}}'),
    "reasons in a list": ("environment", '{"reply": {"python": "/p", "extras": [], "failed": ["ort"]}}'),
    "an unknown state": ("start", '{"reply": {"state": "thinking", "folder": "/r"}}'),
    "text as exit code": ("follow", '{"reply": {"exit": "0", "files": []}}'),
    "a huge exit code": ("follow", f'{{"reply": {{"exit": {ABSURD}, "files": []}}}}'),
    "a file that is a number": ("follow", '{"reply": {"exit": 0, "files": [7]}}'),
    "a million files": ("follow", json.dumps({"reply": {"exit": 0, "files": ["stdout"] * 1_000_000}})),
    "a line without an end": ("follow", '{"event": "line", "text": "x"}'),
    "a line that ends before it began": ("follow", '{"event": "line", "text": "x", "seen": -1}'),
    "a long line": ("follow", json.dumps({"event": "line", "text": "x" * 100_000, "seen": 1})),
    "a file of no size": ("fetch", json.dumps({**DATA, "bytes": None})),
    "a file of negative size": ("fetch", json.dumps({**DATA, "bytes": -5})),
    "a file of absurd size": ("fetch", json.dumps({**DATA, "bytes": ABSURD})),
    "a file without a name": ("fetch", json.dumps({**DATA, "path": None})),
    "no digest of a file": ("fetch", json.dumps({**DATA, "sha256": "0"})),
    "stopped by half": ("stop", '{"reply": {"stopped": 0.5}}'),
    "a folder that is none": ("finish", '{"reply": {"folder": "home"}}'),
}  # fmt: skip
