"""A feature on its way from stage to stage: what it shows, what follows, and who decided."""
