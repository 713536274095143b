"""The command lines of the report's programs."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """--help and -h print the usage and do nothing else; a word too many is a sentence and 64."""

    def __init__(self, program: str, description: str):
        super().__init__(prog=f"python -m {program}", description=description, allow_abbrev=False)
        self._speaker = program.rpartition(".")[2]

    def error(self, message: str) -> NoReturn:
        usage = " ".join(self.format_usage().split())
        print(f"{self._speaker}: {message}; {usage}", file=sys.stderr)
        sys.exit(64)
