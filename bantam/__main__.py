"""``python -m bantam``."""

from bantam.cli import main

main()
