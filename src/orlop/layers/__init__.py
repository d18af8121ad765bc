"""L2: layers of images: decompress, hash, apply."""
