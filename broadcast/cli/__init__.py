"""The server and client programs: their arguments, signals, exit codes and log."""

from .connect import main_client
from .main import main
from .serve import main_server

__all__ = ["main", "main_client", "main_server"]
