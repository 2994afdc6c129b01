"""The gateway: one HTTP call in, an answer inside the deadline out."""
