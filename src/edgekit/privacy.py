"""Usage reports of the packages that edgekit imports, switched off before any of them is imported.

- ONNX Runtime (its PyPI builds since 1.31) keeps a device id and a database of events below ~/.cache/Microsoft and uploads
  them; it reads `ORT_DISABLE_TELEMETRY` when its library is loaded.
- OpenVINO and NNCF report to Google Analytics through the package `openvino_telemetry`, which writes an id below ~/intel. There is
  no variable for that; both work without the package, so it is made to look as if it were not installed.
- huggingface_hub, which timm asks for weights, names the machine's packages in its requests unless `HF_HUB_DISABLE_TELEMETRY` is set.

The user's own choices stand: a variable that is set is left as it is, a package that the program has imported already stays, and
nobody's consent file is read or written.
"""

import os
import sys

VARIABLES = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
PACKAGE = "openvino_telemetry"


def switch_off() -> None:
    """Switch usage reports off in this process and those that it starts; imports nothing.

    `edgekit/__init__.py` calls it, so that nothing of edgekit can import a runtime before.
    """
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    # None: `import openvino_telemetry` raises ModuleNotFoundError (Python's documentation: import system, the module cache).
    sys.modules.setdefault(PACKAGE, None)  # type: ignore[arg-type]
