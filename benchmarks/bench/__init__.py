"""Bantam side by side with its peers: same checkpoint, texts and threads; an environment and a process each."""
