"""Variational Autoencoders (Kingma and Welling 2014): networks, bounds, training, evaluation and files.

Log-probabilities are in nats and higher is better. The package does not import the service.
"""
