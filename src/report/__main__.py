"""`python -m report FOLDER…`: writes FOLDER/report/index.html of the first study named."""

from __future__ import annotations

import sys
from pathlib import Path

from report import page
from report.checks import all_checks
from report.claims import all_claims
from report.results import ReportError, load, unwritable


def main() -> int:
    folders = [Path(argument) for argument in sys.argv[1:]]
    if not folders:
        print("report: no study's folder named; usage: python -m report FOLDER [FOLDER …]",
              file=sys.stderr)
        return 64
    try:
        results = load(folders)
        verdicts = all_claims(results) + all_checks(results)
        try:
            print(page.write(results, verdicts, folders[0] / "report"))
        except OSError as error:
            raise unwritable(folders[0] / "report", error) from error
    except ReportError as error:
        print(f"report: {error}", file=sys.stderr)
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
