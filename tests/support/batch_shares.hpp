// A batch that all ranks know, cut among them in several ways, for tests that compare what ranks do
// with their shares with what one process does with the whole.
#pragma once

#include <torch/torch.h>

#include <functional>
#include <vector>

#include "base/range.hpp"
#include "support/mpi_main.hpp"

namespace syncbn {

inline const CommPtr& world() {
  return test_runtime().world();
}

/// How a batch of n samples is cut among the ranks.
struct Cut {
  const char* name;
  std::function<Range(int64_t n, int rank, int ranks)> share;
};

inline const std::vector<Cut>& cuts() {
  static const std::vector<Cut> all = {
      {"even", share_of},
      {"uneven",  // in proportion to 1 : 2 : 3 : …
       [](int64_t n, int rank, int ranks) {
         const auto border = [&](int64_t r) { return n * r * (r + 1) / (ranks * (ranks + 1)); };
         return Range{border(rank), border(rank + 1)};
       }},
      {"rank 0 empty",
       [](int64_t n, int rank, int ranks) {
         if (ranks == 1) return Range{0, n};
         return rank == 0 ? Range{0, 0} : share_of(n, rank - 1, ranks - 1);
       }},
      {"last rank alone",
       [](int64_t n, int rank, int ranks) {
         return rank + 1 == ranks ? Range{0, n} : Range{0, 0};
       }},
  };
  return all;
}

inline at::Tensor own_rows(const at::Tensor& whole, const Cut& cut = cuts()[0]) {
  const Range rows = cut.share(whole.size(0), world()->rank(), world()->size());
  return whole.narrow(0, rows.begin, rows.size());
}

/// This rank's rows, on the tested device.
inline at::Tensor own_input(const at::Tensor& whole, const Cut& cut = cuts()[0]) {
  return own_rows(whole.to(test_device()), cut);
}

/// Random numbers, exact in float32, that are the same on all ranks.
inline at::Tensor same_everywhere(int seed, at::IntArrayRef sizes, double mean = 0) {
  torch::manual_seed(static_cast<uint64_t>(seed));
  return torch::randn(sizes, torch::kDouble).to(torch::kFloat).to(torch::kDouble) + mean;
}

/// Σ over the ranks, in a tensor of its own.
inline at::Tensor summed(const at::Tensor& t) {
  at::Tensor total = t.detach().clone(at::MemoryFormat::Contiguous);
  world()->all_reduce(total);
  return total;
}

}  // namespace syncbn
