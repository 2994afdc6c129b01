"""From what users said to a dataset that a model can be trained on."""
