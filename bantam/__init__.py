"""The command line, and the only code that knows both sides: the optimizer's artifacts and the server."""
