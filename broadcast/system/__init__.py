"""What programs need of the system: signals, threads, tasks and stderr."""
