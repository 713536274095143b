"""`python -m report FOLDER…`: writes FOLDER/report/index.html of the first study named."""

from __future__ import annotations

import sys
from pathlib import Path

from report import page
from report.checks import all_checks
from report.claims import all_claims
from report.command_line import Parser
from report.files import ReportError, print_any_name, unwritable
from report.results import load


def main() -> int:
    parser = Parser("report", "Turns the results of a study into one page, FOLDER/report/index.html "
                    "of the first folder, and prints its path.")
    parser.add_argument("folders", metavar="FOLDER", nargs="+", type=Path,
                        help="one that syncbn-study has written; more than one share the page")
    folders = parser.parse_args().folders
    print_any_name()
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
