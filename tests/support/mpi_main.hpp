// The main program of tests that run on several ranks, and what it offers them.
//
// - The job must have SYNCBN_EXPECTED_RANKS ranks (a foreign mpiexec starts N worlds of one rank,
// in
//   which everything passes).
// - Rank 0 prints GoogleTest's report; other ranks print their failures only, behind "[rank r/R]".
// - A test that fails on any rank fails on all. EXPECT_* may be used anywhere; ASSERT_* only on
// what
//   all ranks share, because a rank that leaves a test early leaves its peers in a collective.
// - A test that takes over 30 s ends the job, by its name. A skip and a run of no test are
// failures,
//   but for SYNCBN_TEST_DEVICE=cuda, where a run that skipped anything ends with code 77.
#pragma once

#include <optional>

#include "comm/runtime.hpp"

namespace syncbn {

Runtime& test_runtime();

/// The CPU; with SYNCBN_TEST_DEVICE=cuda this rank's GPU, made current, or nothing where it sees
/// none.
std::optional<at::Device> test_device();

}  // namespace syncbn
