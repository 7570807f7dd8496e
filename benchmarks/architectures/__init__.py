"""Every text classifier of transformers, built small and taken through Bantam; see ``__main__``."""
