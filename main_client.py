"""The door to the client: `python main_client.py --help`."""

import sys

if __name__ == "__main__":
    try:
        from broadcast.cli import main_client

        status = main_client()
    except KeyboardInterrupt:  # Ctrl-C before the program could see to it, while it is still being imported
        status = 130
    sys.exit(status)
