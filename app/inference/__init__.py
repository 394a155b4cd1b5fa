"""Inference: one model on one device, its warm-up, its batches, and its replacement."""
