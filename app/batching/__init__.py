"""Dynamic batching: requests wait in a fair queue and their rows share batches; imports neither torch nor HTTP."""
