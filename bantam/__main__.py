"""``python -m bantam``."""

from bantam.commands import main

main()
