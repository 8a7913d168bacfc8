"""One connection, for either side: reach it, read and write it, encrypt it, close it."""
