"""The three ways to answer. A pattern answers; it never records, prices or chooses."""
