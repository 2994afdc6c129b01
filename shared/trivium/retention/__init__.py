"""Retention: what of the database may go, and when."""
