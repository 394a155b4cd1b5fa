"""Runtimes: how an operation of the model is computed, by torch, ONNX Runtime, MNN, or CUDA graphs."""
