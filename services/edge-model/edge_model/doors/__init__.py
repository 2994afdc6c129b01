"""The doors to the core: each a thin translation of a protocol."""
