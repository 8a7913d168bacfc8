"""`python -m broadcast start|connect`."""

import _signal as signal  # type: ignore[import-not-found]  # `signal` imports much first, and a Ctrl-C may be lost in it

if __name__ == "__main__":
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # until the program sees to it: Python may swallow a Ctrl-C amid its imports
    from .cli import main

    main()
