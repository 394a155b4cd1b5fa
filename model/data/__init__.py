"""Data sets: reading, downloading, and binarising images."""
