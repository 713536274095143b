// The main program of tests that run on several ranks, and what it offers them.
//
// - The job must have SYNCBN_EXPECTED_RANKS ranks (a foreign mpiexec starts N worlds of one rank,
//   in which everything passes).
// - Rank 0 prints GoogleTest's report; other ranks print their failures only, after "[rank r/R]".
// - A test that fails on any rank fails on all. EXPECT_* may be used anywhere; ASSERT_* only on
//   what all ranks share, because a rank that leaves a test early leaves its peers in a collective.
// - A test that takes over 30 s ends the job, by its name. A skip and a run of no test fail, but
//   for SYNCBN_TEST_DEVICE=cuda, where a run that skipped anything ends with code 77, and so does
//   one with a rank that sees no GPU, without a single test.
#pragma once

#include "comm/runtime.hpp"

namespace syncbn {

Runtime& test_runtime();

/// Where the tested code computes: the CPU; with SYNCBN_TEST_DEVICE=cuda this rank's GPU, made
/// current. What it is compared with is computed on the CPU (support/close.hpp takes both).
///
/// Tolerances are the CPU's on both devices. In float64 there is no reason for others. In float32
/// batch norm computes in float64 and rounds once on both, and matrix products are sums of the same
/// length in another order, which the CPU's bounds (ten times what was seen) leave room for. A test
/// that needs more for cuBLAS or a CUDA kernel says so where it states its bound.
at::Device test_device();

}  // namespace syncbn
