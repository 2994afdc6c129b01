"""The batch worker: computes ahead of the request what does not depend on it."""
