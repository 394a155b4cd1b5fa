"""Evaluation of a trained model: bounds on log p(x), out-of-distribution scores, plots, and the model card."""
