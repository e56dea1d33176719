"""Switch off the usage reports of packages before edgekit imports them.

- ONNX Runtime (its PyPI builds since 1.31) writes a device id and a database of events below ~/.cache/Microsoft and uploads
  them; it reads `ORT_DISABLE_TELEMETRY` when its library is loaded.
- OpenVINO and NNCF report to Google Analytics through the package `openvino_telemetry`, which writes an id below ~/intel. There is
  no variable to switch it off; both work without the package, so it is made to look as if it were not installed.
- huggingface_hub, from which timm gets weights, names the machine's packages in its requests unless `HF_HUB_DISABLE_TELEMETRY` is set.

The user's choices are respected: a variable that is set is unchanged, a package that the program has already imported stays, and
no consent file is read or written.
"""

import os
import sys

VARIABLES = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
PACKAGE = "openvino_telemetry"


def switch_off() -> None:
    """Switch off usage reports in this process and its child processes; imports nothing.

    `edgekit/__init__.py` calls it, before any module of edgekit can import a runtime.
    """
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    # None: `import openvino_telemetry` raises ModuleNotFoundError (Python's documentation: import system, the module cache).
    sys.modules.setdefault(PACKAGE, None)  # type: ignore[arg-type]
