"""TFLite Micro: the INT8 file of `export.litert` under the rules of microcontrollers, with what a board needs to run and prove it.

`rules` keeps floats away from the pixels and knows the operators, `int8` is the backend of the accuracy search, `limits` measures memory and
holds it against a board's, `fitting` finds the resolution that fits, `code` writes C, and `npu` compiles for an Arm Ethos-U.
"""
