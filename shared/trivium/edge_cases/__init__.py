"""Where the answers are wrong: overridden and unsure inferences, grouped, named and ranked."""
