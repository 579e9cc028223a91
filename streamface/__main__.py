"""``python -m streamface``."""

import sys

from streamface.cli import main

sys.exit(main())
