"""Use cases of images: pull, status, list, remove, fs_info, recover."""
