"""Post-training quantisation: a float ONNX network in, an int8 network in ONNX's QDQ form out.

network.py reads, inputs.py checks calibration data, placement.py decides which values and layers
become 8 bit, ranges.py and weights.py choose their scales, correction.py shifts biases, search.py
compares whole candidates by the error of the outputs, inserting.py and writing.py make the file.
"""
