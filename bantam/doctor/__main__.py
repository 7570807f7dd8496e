"""``python -m bantam.doctor``: works before any set-up."""

import sys

from bantam.doctor import main

main(sys.argv[1:])
