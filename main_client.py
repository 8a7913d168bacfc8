"""The door to the client: `python main_client.py --help`."""

import sys

if __name__ == "__main__":
    try:
        import _signal as signal  # type: ignore[import-not-found]  # `signal` imports much first, and a Ctrl-C may be lost in it

        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the program sees to it: Python may swallow a Ctrl-C amid its imports
        from broadcast.cli import main_client

        status = main_client()
    except KeyboardInterrupt:  # Ctrl-C before that, or once the program does not see to it any more
        status = 130
    sys.exit(status)
