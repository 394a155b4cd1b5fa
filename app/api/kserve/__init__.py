"""Open Inference Protocol v2, the REST dialect of KServe and Triton, with binary tensor data."""
