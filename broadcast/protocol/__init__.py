"""The wire format, as pure functions and values: no socket, no event loop, no clock.

The protocol consists of lines of text, so that a person can use it with `nc`. The server and the
client both use this folder for everything that they send and receive.
"""
