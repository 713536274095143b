"""The phenomenon checks S1, S3 … S13: whether the trainer shows what the literature found. Each
reads the experiments that it names, and is undecided without them."""

from report import checks_norm, checks_published, checks_scaling
from report.evidence import decided
from report.results import Results
from report.verdicts import Verdict

CHECKS = (checks_published.s1, checks_published.s3, checks_published.s4, checks_norm.s5,
          checks_norm.s6, checks_norm.s7, checks_norm.s8, checks_scaling.s9, checks_scaling.s10,
          checks_scaling.s11, checks_norm.s12, checks_norm.s13)


def all_checks(results: Results) -> list[Verdict]:
    return [decided(check, results) for check in CHECKS]
