"""The maker of TFLite Micro's variants (see `targets.Target`)."""

from __future__ import annotations

from edgekit.bundle import BundleFile, Precision, Variant
from edgekit.export.inputs import Sources
from edgekit.export.micro.code import write_code
from edgekit.export.micro.fitting import Fitting
from edgekit.export.micro.int8 import MicroInt8, subset
from edgekit.export.micro.limits import Limits, measure
from edgekit.export.micro.npu import compile_for_npu, require_compiler
from edgekit.export.micro.students import Students
from edgekit.quantize.search import search_accuracy
from edgekit.runtimes import why_not
from edgekit.sizes import ImageSize
from edgekit.targets import TFLITE_MICRO


def make(precision: Precision, sources: Sources) -> Variant:
    """Make the variant for TFLite Micro, of batch 1.

    Raises:
        ExportError: the graph has an operator that TFLite Micro lacks, or it cannot run or compile the file.
        RuntimeMissing: tflite-micro, or the compiler that an option needs, is not installed.
    """
    if missing := why_not(TFLITE_MICRO.name):  # before minutes are spent
        raise missing
    options = sources.options
    if options.ethos_u:
        require_compiler()
    reference = subset(sources.reference)
    backend = MicroInt8(sources.quantizer, reference, options.bounds, 1)
    variant = search_accuracy(backend, sources.folder, recover=options.recover, budget=sources.budget)
    if len(reference.images) < len(sources.reference.images):
        images = f"{len(reference.images):,} of the {len(sources.reference.images):,}"
        variant = variant.noted(f"judged on {images} images, since TFLite Micro's kernels are slow on a computer")
    path = sources.folder / variant.files[0].path
    needs = measure(path, reference.task)
    if options.ethos_u:
        needs.npu = compile_for_npu(path, options.ethos_u, needs.persistent_bytes or 0)
        variant.files.append(BundleFile.of(sources.folder, needs.npu.file))
    names = write_code(path, needs, reference, variant.parity)
    variant.files.extend(BundleFile.of(sources.folder, name) for name in names)
    variant = variant.model_copy(update={"board": needs})
    size = ImageSize.of(reference.images.shape[1:3])
    kept = variant.quantization.kept_in_float if variant.quantization is not None else []
    fitting = Fitting(sources.calibration, kept, reference.task, size)
    students = Students.like(sources)
    return Limits(options.max_ram, options.max_flash).judge(variant, size, fitting.largest, students.largest)
