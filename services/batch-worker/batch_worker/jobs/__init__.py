"""What chunks are made of."""
