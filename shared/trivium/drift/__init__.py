"""Whether the traffic is still what it was."""
