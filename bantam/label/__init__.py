"""Labels a corpus of any size with the in-process engine, on all cores: ``bantam label``."""
