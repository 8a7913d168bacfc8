"""The server: accept connections, serve each in a session, and deliver messages to all."""
