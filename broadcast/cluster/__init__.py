"""Makes many servers one room, over a Redis stream; loaded only by a server in a cluster."""
