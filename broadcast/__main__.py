"""`python -m broadcast start|connect`."""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the program sees to it: Python may swallow a Ctrl-C amid its imports
    from .cli import main

    main()
