"""From labelled messages to a versioned ONNX artefact (needs the extra `train`)."""
