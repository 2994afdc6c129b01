"""The ledger: SQLite on a laptop, PostgreSQL in production, one set of repositories."""
