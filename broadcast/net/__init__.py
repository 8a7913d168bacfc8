"""One connection, for the client and the server: connect, read, write, encrypt and close it."""
