"""Whole data sets offline: images to latents on disk, latents to images, and reconstructions.

`encode.encode_dataset` and the functions of `decode` are for programs. Importing this package loads no optional module.
"""
