"""The doors: each translates its wire to `serve()` and back."""
