"""The built-in stages, one file each: fields and `run`. None imports torch at its top, and none imports another."""
