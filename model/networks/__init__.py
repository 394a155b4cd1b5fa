"""The encoder and decoder networks and the blocks that they share."""
