"""The door to the server: `python main_server.py --help`."""

import sys

if __name__ == "__main__":
    try:
        from broadcast.cli import main_server

        status = main_server()
    except KeyboardInterrupt:  # Ctrl-C before the program could see to it, while it is still being imported
        status = 130
    sys.exit(status)
