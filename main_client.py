"""The door to the client: `python main_client.py --help`."""

import sys

if __name__ == "__main__":
    try:
        import signal

        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the program sees to it: Python may swallow a Ctrl-C amid its imports
        from broadcast.cli import main_client

        status = main_client()
    except KeyboardInterrupt:  # Ctrl-C before that, or once the program does not see to it any more
        status = 130
    sys.exit(status)
