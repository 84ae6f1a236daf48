"""Where pieces of work are done: in this process, or on many machines."""
