"""C++ for a board: the model and golden tensors as arrays, and a program that proves them in TFLite Micro."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.board import BoardNeeds
from edgekit.bundle import Parity
from edgekit.export.verify import ReferenceOutputs
from edgekit.runtimes import open_session
from edgekit.runtimes.session import run_in_batches
from edgekit.targets import TFLITE_MICRO

IMAGES = 4  # golden images in the code: each takes flash
_RELATIVE = 1e-3  # of the outputs' range: the least difference that is allowed, for other floating-point units
_ROW = 32
_HEAD = "// Written by `edgekit export`.\n"


def write_code(path: Path, needs: BoardNeeds, reference: ReferenceOutputs, parity: Parity | None) -> list[str]:
    """Write the C++ beside a `.tflite`; return the names of the files.

    Args:
        path: the model. Where it was also compiled for an NPU, the code holds the compiled file, and the answers of this one.
        needs: of the model.
        reference: gives the golden images.
        parity: how near the model is to the trained one: a board may be as far from TFLite Micro on a computer as that.
    """
    images = np.ascontiguousarray(reference.images[reference.golden[:IMAGES]])
    main = reference.task.main
    session = open_session(TFLITE_MICRO.name, path, task=reference.task)
    index = session.outputs.index(main)
    expected = run_in_batches(session, images, 1, only=main)[main].reshape(len(images), -1)
    session.close()
    allowed = max(_RELATIVE * float(np.ptp(expected)), parity.max_abs_diff if parity is not None else 0.0)
    files = {
        "micro_model.h": _model_header(needs),
        "micro_model.cc": _model(path.with_name(needs.npu.file if needs.npu is not None else path.name).read_bytes()),
        "micro_golden.h": _golden(images, expected, allowed),
        "micro_main.cc": _main(needs, index, main),
    }
    for name, text in files.items():
        path.with_name(name).write_text(text)
    return list(files)


def _array(numbers: list[str]) -> str:
    return ",\n".join(",".join(numbers[i : i + _ROW]) for i in range(0, len(numbers), _ROW))


def _model_header(needs: BoardNeeds) -> str:
    if (npu := needs.npu) is not None:
        arena = npu.arena_bytes
        said = (
            f"// The model is compiled for {npu.accelerator} by {npu.compiler}, and was not run. The arena is computed, not measured: the\n"
            "// compiler's memory, and what stays of the uncompiled model. micro_main.cc prints what is used."
        )
    else:
        arena = needs.arena_bytes
        said = (
            f"// Measured by {needs.measured_by} on a computer, with its reference kernels. Where pointers have 32 bits, less is enough; kernels\n"
            "// that were optimized for a processor may need more, for scratch memory."
        )
    return f"""{_HEAD}#ifndef EDGEKIT_MICRO_MODEL_H_
#define EDGEKIT_MICRO_MODEL_H_

#include <cstddef>
#include <cstdint>

extern const uint8_t kModel[];
extern const size_t kModelBytes;

{said}
constexpr size_t kArenaBytes = {arena};

#endif  // EDGEKIT_MICRO_MODEL_H_
"""


def _model(content: bytes) -> str:
    numbers = _array([str(byte) for byte in content])
    return f"""{_HEAD}#include "micro_model.h"

alignas(16) const uint8_t kModel[] = {{
{numbers}
}};
const size_t kModelBytes = sizeof(kModel);
"""


def _golden(images: NDArray[np.uint8], expected: NDArray[np.float32], allowed: float) -> str:
    count, pixels = len(images), images[0].size
    rows = ",\n".join("    {\n" + _array([str(v) for v in image.reshape(-1)]) + "}" for image in images)
    outputs = ",\n".join("    {" + _array([_literal(v) for v in row]).strip() + "}" for row in expected)
    return f"""{_HEAD}#ifndef EDGEKIT_MICRO_GOLDEN_H_
#define EDGEKIT_MICRO_GOLDEN_H_

#include <cstdint>

constexpr int kImages = {count};
constexpr int kPixels = {pixels};  // bytes of an image, height x width x 3
constexpr int kOutputs = {expected.shape[1]};

constexpr uint8_t kImage[kImages][kPixels] = {{
{rows}
}};

// What TFLite Micro gives for them on a computer.
constexpr float kExpected[kImages][kOutputs] = {{
{outputs}
}};

// The largest difference that is allowed: as far as the model itself is from the trained one.
constexpr float kAllowed = {_literal(allowed)};

#endif  // EDGEKIT_MICRO_GOLDEN_H_
"""


def _literal(value: float) -> str:
    text = f"{float(value):.9g}"
    return f"{text}f" if any(c in text for c in ".e") else f"{text}.0f"


def _main(needs: BoardNeeds, index: int, output: str) -> str:
    npu = needs.npu
    methods = needs.operators if npu is None else npu.operators
    unexecuted = (
        ""
        if npu is None
        else f"""//
// The model is compiled for {npu.accelerator}, and NOT EXECUTED by edgekit: the golden answers are those of the uncompiled model. Start the NPU's
// driver as your board does before main's first line, and give it access to the model and the arena.
"""
    )
    added = " ||\n      ".join(f"operators.{method}() != kTfLiteOk" for method in methods)
    return f"""{_HEAD}// Proves a model on a board: it must answer the golden images as TFLite Micro does on a computer.
//
// NOT COMPILED by edgekit: no package that it can use holds TFLite Micro's headers. Build it with the sources of TFLite Micro
// (github.com/tensorflow/tflite-micro), C++17, together with micro_model.cc.
{unexecuted}
#include <cmath>
#include <cstdint>
#include <cstring>

#include "micro_golden.h"
#include "micro_model.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_log.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/micro/system_setup.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace {{
alignas(16) uint8_t arena[kArenaBytes];
}}

int main() {{
  tflite::InitializeTarget();
  tflite::MicroMutableOpResolver<{len(methods)}> operators;
  if ({added}) {{
    MicroPrintf("edgekit: an operator cannot be registered");
    return 1;
  }}
  tflite::MicroInterpreter interpreter(tflite::GetModel(kModel), operators, arena, kArenaBytes);
  if (interpreter.AllocateTensors() != kTfLiteOk) {{
    MicroPrintf("edgekit: the arena of %d bytes is too small, or an operator is missing", static_cast<int>(kArenaBytes));
    return 1;
  }}
  TfLiteTensor* image = interpreter.input(0);
  const TfLiteTensor* output = interpreter.output({index});  // {output}
  if (image->bytes != kPixels || output->bytes != kOutputs * sizeof(float)) {{
    MicroPrintf("edgekit: the golden tensors are of another model");
    return 1;
  }}
  bool passed = true;
  float largest = 0.0f;
  for (int i = 0; i < kImages; ++i) {{
    std::memcpy(image->data.uint8, kImage[i], kPixels);
    if (interpreter.Invoke() != kTfLiteOk) {{
      MicroPrintf("edgekit: image %d cannot be run", i);
      return 1;
    }}
    for (int j = 0; j < kOutputs; ++j) {{
      const float difference = std::fabs(output->data.f[j] - kExpected[i][j]);
      if (!(difference <= kAllowed)) passed = false;  // also where it is not a number
      if (difference > largest) largest = difference;
    }}
  }}
  MicroPrintf("edgekit: %s, largest difference %d of %d millionths allowed, arena %d of %d bytes",
              passed ? "passed" : "FAILED", static_cast<int>(std::fmin(largest, 2000.0f) * 1e6f),
              static_cast<int>(std::fmin(kAllowed, 2000.0f) * 1e6f),
              static_cast<int>(interpreter.arena_used_bytes()), static_cast<int>(kArenaBytes));
  return passed ? 0 : 1;
}}
"""
