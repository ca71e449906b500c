"""A network in ONNX becomes a small library that skips the zeros: graph, passes, kernels, C."""
