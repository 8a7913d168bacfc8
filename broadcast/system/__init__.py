"""What programs need of the system: signals, threads and stderr."""
