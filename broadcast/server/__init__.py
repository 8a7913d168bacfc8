"""The server: it accepts connections, serves each in a session, and fans out what is said."""
