"""`python -m harness.cli`: the same as the command `moodbench`."""

import sys

from harness.cli import main

sys.exit(main())
