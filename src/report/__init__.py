"""From a study's files to one page of verdicts: `python -m report FOLDER…`."""
