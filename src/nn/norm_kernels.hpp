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
#include "nn/activation_kind.hpp"

namespace syncbn {

/// stats[p] ← count, mean and m2 of rows[p] of x, by two passes (mean first, then deviations), row
/// after row. `alone`: on CUDA each piece is a reduction of its own, whose bits do not depend on
/// the number of pieces, instead of one for all pieces of equal size.
void moments(const at::Tensor& x, const std::vector<Range>& rows, bool alone, at::Tensor& stats);

/// Row i of `into` ← the moments of its samples and those of row j of `from`, by the pairwise
/// formula. A row of count 0 changes nothing. Rows as stats'.
void merge_moments(const at::Tensor& from, int64_t j, at::Tensor& into, int64_t i);
/// Row i of `into` += row j of `from`. Both (…, W) float64.
void add_row(const at::Tensor& from, int64_t j, at::Tensor& into, int64_t i);

/// y ← f(γ·x̂ + β) with x̂ = (x − mean)/√(m2/count + eps) and f the activation. Rows of piece p use
/// stats[p]. y may be x.
void normalise(const at::Tensor& x, const std::vector<Range>& rows, const at::Tensor& stats,
               const at::Tensor& gamma, const at::Tensor& beta, double eps, Activation activation,
               at::Tensor& y);

/// sums[p] ← Σ dy and Σ dy·x̂ over rows[p], after dy ← dy·f' in place, f' taken from y (NaN passes).
/// With kNone, dy stays and y is not read. `alone` as in moments().
void backward_sums(const at::Tensor& x, const at::Tensor& y, at::Tensor& dy,
                   const std::vector<Range>& rows, const at::Tensor& stats, double eps,
                   Activation activation, bool alone, at::Tensor& sums);

/// dx ← γ·s·(dy − Σdy/m − x̂·Σdy·x̂/m), s = 1/√(m2/m + eps), where stats and sums are those of the
/// whole group and m is its count. dx may be dy.
void input_gradient(const at::Tensor& x, const at::Tensor& dy, const std::vector<Range>& rows,
                    const at::Tensor& stats, const at::Tensor& sums, const at::Tensor& gamma,
                    double eps, at::Tensor& dx);

/// parts[s] (W) ← Σ over p in runs[s] of weights[p] · table[p][first … first + W), rounded to
/// parts' dtype once. table: (P, ≥ first + W) float64; parts: (S, W).
void weighted_sums(const at::Tensor& table, int64_t first, const std::vector<double>& weights,
                   const std::vector<Range>& runs, at::Tensor& parts);

}  // namespace syncbn
