"""Post-training quantisation: a float ONNX network in, an int8 network in ONNX's QDQ form out.

network.py reads, inputs.py checks calibration data, placement.py decides which values and layers
become 8 bit, ranges.py and weights.py choose their scales, and plan.py is the network that follows.
search.py compares candidates by the error of the outputs, for which running.py runs networks;
correction.py shifts biases, equalizing.py scales channels, sensitivity.py takes layers back to
float32. writing.py makes the file, call.py is the way through all of it.

training.py trains a torch module as its int8 network computes: matching.py finds where in the
module the layers and values of that network are, and the hooks of fake.py round there.
"""
