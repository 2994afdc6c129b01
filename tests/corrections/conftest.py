"""What the tests of corrections share."""

from support.databases import database, migrated_urls

__all__ = ["database", "migrated_urls"]
