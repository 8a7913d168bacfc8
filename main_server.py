"""Entry point: the server; `python main_server.py --help` shows its arguments."""

from broadcast.__main__ import run

if __name__ == "__main__":
    run("main_server")
