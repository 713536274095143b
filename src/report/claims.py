"""The notebooks' eleven claims, and their printed table, as hypotheses with a verdict. Learning
rates are tuned for each cell, numbers are of the test set, arms are paired by seed."""

from report import claims_batch, claims_norm
from report.evidence import decided
from report.results import Results
from report.verdicts import Verdict

CLAIMS = (claims_norm.steps, claims_norm.seconds, claims_norm.learning_rates,
          claims_norm.initial_weights, claims_norm.dropout, claims_batch.small_groups,
          claims_batch.plateau, claims_batch.memory, claims_batch.time,
          claims_batch.running_statistics, claims_norm.deep_nets, claims_norm.optimizers,
          claims_batch.speed_for_stability, claims_batch.printed_table)


def all_claims(results: Results) -> list[Verdict]:
    return [decided(claim, results) for claim in CLAIMS]
