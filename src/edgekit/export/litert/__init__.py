"""LiteRT (TensorFlow Lite): the float graph written straight into a `.tflite`, in FP32, with FP16 weights, or in INT8.

`facts` knows every shape of the ONNX, `lowering` walks its nodes by the tables of `convolutions`, `pooling`, `elementwise`, `matrices`,
`shapes` and `spatial`, `layout` decides where a transpose is needed, `graph` holds what comes out, and `flatbuffer` writes it.
"""
