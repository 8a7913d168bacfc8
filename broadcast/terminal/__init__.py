"""A person at a terminal, or a pipeline: where lines come from and go to."""
