"""Dynamic batching: requests wait in a queue, and their rows share batches; knows neither tensors nor HTTP."""
