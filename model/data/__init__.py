"""Data sets: reading image files, arrays and MNIST, and downloading MNIST."""
