"""Foundation models: one Protocol, one file per vendor's wire."""
