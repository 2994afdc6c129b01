"""Runs from their start to their entities: what the gateway, the worker and the command line share."""
