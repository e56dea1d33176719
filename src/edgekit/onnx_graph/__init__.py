"""The float graph: a network as ONNX, simplified, named as in the network, with its metadata."""
