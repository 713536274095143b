// The passes of batch norm over one rank's rows: moments, fold, normalise, backward sums, input
// gradient. What lies between them (the exchange with other ranks) is in nn/norm_exchange.hpp.
//
// Shapes: n rows of this rank, C features, P pieces (statistics groups this rank has a part in).
//   x, y, dy, dx      (n, C)        float32 or float64, contiguous
//   stats             (P, 2C+1)     float64: count, mean (C), m2 (C) = sum of squared deviations
//   sums              (P, 2C)       float64: Σ dy (C), Σ dy·x̂ (C)
//   gamma, beta       (C)           x's dtype
// All statistics and all sums are float64 and each element is normalised in float64 before it is
// rounded to x's dtype once: a variance at mean/std = 1e4 keeps its digits in float32, and the
// results at different rank counts differ by float64 rounding only. Outputs are written in place;
// on CPU nothing is allocated. On CUDA the same functions call ATen and never wait for the device.
//
// Not collective. Sources: Ioffe and Szegedy, "Batch normalization" (2015), algorithm 1 and the
// gradients below it (section 3); Chan, Golub and LeVeque, "Updating formulae and a pairwise
// algorithm for computing sample variances" (1979), equation 2.1.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "base/range.hpp"

namespace syncbn {

/// stats[p] ← count, mean and m2 of rows[p] of x, by two passes (mean first, then deviations).
void moments(const at::Tensor& x, const std::vector<Range>& rows, at::Tensor& stats);

/// parts (K, S, 2C+1) → folded (S, 2C+1): for each s the moments of the union, in the order of k,
/// by the pairwise formula. Parts of count 0 change nothing; if all are empty the result is 0.
void fold_moments(const at::Tensor& parts, at::Tensor& folded);

/// y ← γ·x̂ + β with x̂ = (x − mean)/√(m2/count + eps), then max(0, ·) if `relu`. Rows of piece p use
/// stats[p]. y may be x.
void normalise(const at::Tensor& x, const std::vector<Range>& rows, const at::Tensor& stats,
               const at::Tensor& gamma, const at::Tensor& beta, double eps, bool relu,
               at::Tensor& y);

/// sums[p] ← Σ dy and Σ dy·x̂ over rows[p]. With `relu`, dy is first set to 0 where y ≤ 0
/// (NaN passes), in place; y is not read otherwise.
void backward_sums(const at::Tensor& x, const at::Tensor& y, at::Tensor& dy,
                   const std::vector<Range>& rows, const at::Tensor& stats, double eps, bool relu,
                   at::Tensor& sums);

/// dx ← γ·s·(dy − Σdy/m − x̂·Σdy·x̂/m), s = 1/√(m2/m + eps), where stats and sums are those of the
/// whole group and m is its count. dx may be dy.
void input_gradient(const at::Tensor& x, const at::Tensor& dy, const std::vector<Range>& rows,
                    const at::Tensor& stats, const at::Tensor& sums, const at::Tensor& gamma,
                    double eps, at::Tensor& dx);

/// out (W) ← Σ over p of weights[p] · table[p][first … first + W), rounded to out's dtype once.
/// table: (P, ≥ first + W) float64.
void weighted_sum(const at::Tensor& table, int64_t first, const std::vector<double>& weights,
                  at::Tensor& out);

}  // namespace syncbn
