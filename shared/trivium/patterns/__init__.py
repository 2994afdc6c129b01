"""The three patterns as steps of a chain: for the gateway's requests and the worker's entities alike."""
