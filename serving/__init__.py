"""What serves: the model repository, Triton's configuration, the server, and what runs inside it. No torch."""
