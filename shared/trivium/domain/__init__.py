"""The concepts, each in one file, without I/O."""
