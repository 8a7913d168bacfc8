"""What the client shows to its user: an interactive terminal, or a pipeline."""
