"""The client without a terminal: connect, send, iterate over what arrives, reconnect."""
