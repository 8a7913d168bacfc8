"""The client without a terminal: it connects, sends, receives and reconnects."""
