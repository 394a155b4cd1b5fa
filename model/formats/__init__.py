"""Model formats, one module each: a folder or a name in, an `ImageModel` out."""
