"""ExecuTorch: the float graph, or the graph with Q/DQ nodes, as a `.pte` whose work XNNPACK does.

`network` computes a graph of ONNX in torch with the operators of `operators`, and `program` lets ExecuTorch export and lower that.
"""
