"""`python -m vlm_perception.tools <command>`."""

import sys

from vlm_perception.tools.cli import main

sys.exit(main())
