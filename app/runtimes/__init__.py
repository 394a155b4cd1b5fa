"""Runtimes, a module each: how torch, CUDA graphs, ONNX Runtime and MNN compute the operations of a model."""
