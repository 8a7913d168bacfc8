"""Entry point: `python -m broadcast start` and `python -m broadcast connect`."""

import sys


def run(program: str = "main") -> None:
    """Run one of the functions of `broadcast.cli` and exit; Ctrl-C never shows a traceback."""
    try:
        # Not `signal`, which imports other modules: Ctrl-C may arrive meanwhile.
        import _signal  # type: ignore[import-not-found]

        # Python may swallow the KeyboardInterrupt during an import, so until the program has its
        # own handler, Ctrl-C ends the process directly.
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
        from . import cli

        status = getattr(cli, program)()
    except KeyboardInterrupt:  # before the handler is reset, or after `asyncio.run` restored it
        status = 130
    sys.exit(status)


if __name__ == "__main__":
    run()
