"""Codecs between bytes and arrays; they know neither HTTP nor a model."""
