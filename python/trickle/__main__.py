# SPDX-License-Identifier: MIT
"""python -m trickle: the trickle command with this Python."""
from trickle.cli import main

main()
