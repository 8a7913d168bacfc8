"""The door to the client: `python main_client.py --help`."""

import signal
import sys

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the program sees to it: Python may swallow a Ctrl-C amid its imports
    try:
        from broadcast.cli import main_client

        status = main_client()
    except KeyboardInterrupt:  # Ctrl-C once the program does not see to it any more
        status = 130
    sys.exit(status)
