"""Entry point: the client; `python main_client.py --help` shows its arguments."""

from broadcast.__main__ import run

if __name__ == "__main__":
    run("main_client")
