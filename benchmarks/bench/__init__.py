"""Bantam side by side with its peers: same checkpoint, texts and threads, each in an environment and process of its own."""
