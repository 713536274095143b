#include "nn/norm_kernels.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.hpp"
#include "nn/norm_loops.hpp"

namespace syncbn {
namespace {

constexpr int64_t kGrain = 32768;        // elements per thread below which threads cost more
constexpr int64_t kMaxColumnBlock = 64;  // columns worked on at once: their constants stay in cache

template <class F>
void with_dtype(const at::Tensor& t, F&& f) {
  if (t.scalar_type() == at::kFloat) {
    f(float{});
  } else {
    SYNCBN_CHECK(t.scalar_type() == at::kDouble, "batch norm takes float32 or float64, not ",
                 t.scalar_type());
    f(double{});
  }
}

void check_matrix(const at::Tensor& x) {
  SYNCBN_CHECK(x.dim() == 2 && x.is_contiguous(), "batch norm takes contiguous (n, C), not ",
               x.sizes());
}

// Calls f(first column, columns) for blocks of columns, in parallel when the piece is large. A
// column is always summed by one thread, row after row, so threads do not change a bit.
template <class F>
void for_column_blocks(Range rows, int64_t columns, F&& f) {
  const int64_t blocks = (columns + kMaxColumnBlock - 1) / kMaxColumnBlock;
  const int64_t work = std::max<int64_t>(1, rows.size() * kMaxColumnBlock);
  at::parallel_for(0, blocks, std::max<int64_t>(1, kGrain / work), [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t c = b * kMaxColumnBlock;
      f(c, std::min(kMaxColumnBlock, columns - c));
    }
  });
}

// The constants of one block of columns, from one row of stats.
struct Constants {
  double mean[kMaxColumnBlock], inv_std[kMaxColumnBlock];
  double count;
  Constants(const double* stats, int64_t features, int64_t first, int64_t columns, double eps)
      : count(stats[0]) {
    const double* means = stats + 1 + first;
    const double* m2 = stats + 1 + features + first;
    for (int64_t c = 0; c < columns; ++c) {
      mean[c] = means[c];
      inv_std[c] = 1.0 / std::sqrt(m2[c] / count + eps);
    }
  }
};

// ---- CUDA: pieces as one (P, M, C) view when they are equal, else one after the other ----

bool equal_pieces(const std::vector<Range>& rows) {
  const int64_t size = rows.empty() ? 0 : rows[0].size();
  return std::all_of(rows.begin(), rows.end(), [&](Range r) { return r.size() == size; });
}

// f(rows of t…, rows of stats…) once per run of equal pieces; tensors come as (pieces, M, C).
template <class F>
void for_piece_views(const std::vector<Range>& rows, F&& f) {
  const auto pieces = static_cast<int64_t>(rows.size());
  if (pieces > 0 && equal_pieces(rows)) {
    f(Range{0, pieces}, Range{rows.front().begin, rows.back().end});
  } else {
    for (int64_t p = 0; p < pieces; ++p) f(Range{p, p + 1}, rows[static_cast<size_t>(p)]);
  }
}

at::Tensor view_pieces(const at::Tensor& t, Range pieces, Range rows) {
  return t.narrow(0, rows.begin, rows.size())
      .view({pieces.size(), rows.size() / pieces.size(), t.size(1)});  // (P, M, C)
}

struct DeviceConstants {
  at::Tensor count, mean, inv_std;  // (P, 1, 1), (P, 1, C), (P, 1, C), float64
  DeviceConstants(const at::Tensor& stats, Range pieces, int64_t features, double eps) {
    const at::Tensor s = stats.narrow(0, pieces.begin, pieces.size()).unsqueeze(1);
    count = s.narrow(2, 0, 1);
    mean = s.narrow(2, 1, features);
    inv_std = (s.narrow(2, 1 + features, features) / count + eps).rsqrt();
  }
};

}  // namespace

void moments(const at::Tensor& x, const std::vector<Range>& rows, at::Tensor& stats) {
  check_matrix(x);
  const int64_t features = x.size(1);
  if (!x.is_cpu()) {
    for_piece_views(rows, [&](Range pieces, Range r) {
      at::Tensor out = stats.narrow(0, pieces.begin, pieces.size());
      if (r.size() == 0) {  // the mean of no rows is NaN, and NaN times a count of 0 still is
        out.zero_();
        return;
      }
      const at::Tensor v = view_pieces(x, pieces, r).to(at::kDouble);
      const at::Tensor mean = v.mean(1, /*keepdim=*/true);
      out.narrow(1, 0, 1).fill_(static_cast<double>(v.size(1)));
      out.narrow(1, 1, features).copy_(mean.squeeze(1));
      out.narrow(1, 1 + features, features).copy_((v - mean).square_().sum(1));
    });
    return;
  }
  with_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    const T* data = x.const_data_ptr<T>();
    auto* out = stats.mutable_data_ptr<double>();
    for (const Range r : rows) {
      out[0] = static_cast<double>(r.size());
      for_column_blocks(r, features, [&](int64_t c, int64_t columns) {
        loops::moments(data + r.begin * features + c, {r.size(), columns, features}, out + 1 + c,
                       out + 1 + features + c);
      });
      out += 2 * features + 1;
    }
  });
}

void fold_moments(const at::Tensor& parts, at::Tensor& folded) {
  const int64_t count = parts.size(0), groups = parts.size(1), width = parts.size(2);
  const int64_t features = (width - 1) / 2;
  if (!parts.is_cpu()) {
    const at::Tensor n = parts.narrow(2, 0, 1), mean = parts.narrow(2, 1, features);
    const at::Tensor total = n.sum(0);  // (S, 1)
    const at::Tensor centre = mean[0];  // deviations from one part's mean keep their digits
    const at::Tensor merged = centre + ((mean - centre) * n).sum(0) / total.clamp_min(1);
    folded.narrow(1, 0, 1).copy_(total);
    folded.narrow(1, 1, features).copy_(merged);
    folded.narrow(1, 1 + features, features)
        .copy_((parts.narrow(2, 1 + features, features) + (mean - merged).square() * n).sum(0));
    return;
  }
  const auto* in = parts.const_data_ptr<double>();
  auto* out = folded.mutable_data_ptr<double>();
  std::memset(out, 0, static_cast<size_t>(groups * width) * sizeof(double));
  for (int64_t k = 0; k < count; ++k) {
    for (int64_t s = 0; s < groups; ++s) {
      const double* part = in + (k * groups + s) * width;
      double* total = out + s * width;
      if (part[0] == 0) continue;
      const double n = total[0] + part[0];
      const double weight = part[0] / n, cross = total[0] * weight;
      for (int64_t c = 1; c <= features; ++c) {
        const double delta = part[c] - total[c];
        total[c] += delta * weight;
        total[features + c] += part[features + c] + delta * delta * cross;
      }
      total[0] = n;
    }
  }
}

void normalise(const at::Tensor& x, const std::vector<Range>& rows, const at::Tensor& stats,
               const at::Tensor& gamma, const at::Tensor& beta, double eps, bool relu,
               at::Tensor& y) {
  check_matrix(x);
  const int64_t features = x.size(1);
  if (!x.is_cpu()) {
    for_piece_views(rows, [&](Range pieces, Range r) {
      const DeviceConstants k(stats, pieces, features, eps);
      const at::Tensor value = (view_pieces(x, pieces, r) - k.mean) * (k.inv_std * gamma) + beta;
      view_pieces(y, pieces, r).copy_(relu ? value.relu() : value);
    });
    return;
  }
  with_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    const T* data = x.const_data_ptr<T>();
    const T* g = gamma.const_data_ptr<T>();
    const T* b = beta.const_data_ptr<T>();
    T* out = y.mutable_data_ptr<T>();
    const auto* s = stats.const_data_ptr<double>();
    for (const Range r : rows) {
      for_column_blocks(r, features, [&](int64_t c, int64_t columns) {
        const Constants k(s, features, c, columns, eps);
        double scale[kMaxColumnBlock], shift[kMaxColumnBlock];
        for (int64_t j = 0; j < columns; ++j) {
          scale[j] = static_cast<double>(g[c + j]) * k.inv_std[j];
          shift[j] = static_cast<double>(b[c + j]) - k.mean[j] * scale[j];
        }
        const int64_t first = r.begin * features + c;
        loops::affine(data + first, {r.size(), columns, features}, scale, shift, relu, out + first);
      });
      s += 2 * features + 1;
    }
  });
}

void backward_sums(const at::Tensor& x, const at::Tensor& y, at::Tensor& dy,
                   const std::vector<Range>& rows, const at::Tensor& stats, double eps, bool relu,
                   at::Tensor& sums) {
  check_matrix(x);
  const int64_t features = x.size(1);
  if (!x.is_cpu()) {
    if (relu) dy.masked_fill_(y <= 0, 0);
    for_piece_views(rows, [&](Range pieces, Range r) {
      const DeviceConstants k(stats, pieces, features, eps);
      const at::Tensor g = view_pieces(dy, pieces, r).to(at::kDouble);
      const at::Tensor x_hat = (view_pieces(x, pieces, r) - k.mean) * k.inv_std;
      at::Tensor out = sums.narrow(0, pieces.begin, pieces.size());
      out.narrow(1, 0, features).copy_(g.sum(1));
      out.narrow(1, features, features).copy_((g * x_hat).sum(1));
    });
    return;
  }
  with_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    const T* data = x.const_data_ptr<T>();
    const T* gradient = dy.const_data_ptr<T>();
    const auto* s = stats.const_data_ptr<double>();
    auto* out = sums.mutable_data_ptr<double>();
    for (const Range r : rows) {
      for_column_blocks(r, features, [&](int64_t c, int64_t columns) {
        const Constants k(s, features, c, columns, eps);
        const int64_t first = r.begin * features + c;
        const loops::Block block = {r.size(), columns, features};
        if (relu)
          loops::mask(y.const_data_ptr<T>() + first, block, dy.mutable_data_ptr<T>() + first);
        loops::backward_sums(data + first, gradient + first, block, k.mean, k.inv_std, out + c,
                             out + features + c);
      });
      s += 2 * features + 1;
      out += 2 * features;
    }
  });
}

void input_gradient(const at::Tensor& x, const at::Tensor& dy, const std::vector<Range>& rows,
                    const at::Tensor& stats, const at::Tensor& sums, const at::Tensor& gamma,
                    double eps, at::Tensor& dx) {
  check_matrix(x);
  const int64_t features = x.size(1);
  if (!x.is_cpu()) {
    for_piece_views(rows, [&](Range pieces, Range r) {
      const DeviceConstants k(stats, pieces, features, eps);
      const at::Tensor s = sums.narrow(0, pieces.begin, pieces.size()).unsqueeze(1) / k.count;
      const at::Tensor x_hat = (view_pieces(x, pieces, r) - k.mean) * k.inv_std;
      const at::Tensor centred = view_pieces(dy, pieces, r) - s.narrow(2, 0, features) -
                                 x_hat * s.narrow(2, features, features);
      view_pieces(dx, pieces, r).copy_(centred * (k.inv_std * gamma));
    });
    return;
  }
  with_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    const T* data = x.const_data_ptr<T>();
    const T* gradient = dy.const_data_ptr<T>();
    const T* g = gamma.const_data_ptr<T>();
    T* out = dx.mutable_data_ptr<T>();
    const auto* s = stats.const_data_ptr<double>();
    const auto* sum = sums.const_data_ptr<double>();
    for (const Range r : rows) {
      for_column_blocks(r, features, [&](int64_t col, int64_t columns) {
        const Constants k(s, features, col, columns, eps);
        double a[kMaxColumnBlock], b[kMaxColumnBlock], c[kMaxColumnBlock];
        for (int64_t j = 0; j < columns; ++j) {
          a[j] = static_cast<double>(g[col + j]) * k.inv_std[j];
          b[j] = -a[j] * k.inv_std[j] * sum[features + col + j] / k.count;
          c[j] = -a[j] * sum[col + j] / k.count - b[j] * k.mean[j];
        }
        const int64_t first = r.begin * features + col;
        loops::input_gradient(data + first, gradient + first, {r.size(), columns, features}, a, b,
                              c, out + first);
      });
      s += 2 * features + 1;
      sum += 2 * features;
    }
  });
}

void weighted_sum(const at::Tensor& table, int64_t first, const std::vector<double>& weights,
                  at::Tensor& out) {
  const int64_t width = out.size(0);
  if (!out.is_cpu()) {
    const at::Tensor rows = table.narrow(1, first, width);
    if (weights.empty()) {
      out.zero_();
    } else if (std::count(weights.begin(), weights.end(), weights[0]) ==
               static_cast<int64_t>(weights.size())) {
      out.copy_(rows.sum(0) * weights[0]);
    } else {
      at::Tensor sum = at::zeros({width}, table.options());
      for (size_t p = 0; p < weights.size(); ++p) {
        sum.add_(rows[static_cast<int64_t>(p)], weights[p]);
      }
      out.copy_(sum);
    }
    return;
  }
  with_dtype(out, [&](auto zero) {
    using T = decltype(zero);
    T* result = out.mutable_data_ptr<T>();
    const auto* rows = table.const_data_ptr<double>() + first;
    for (int64_t c = 0; c < width; ++c) {
      double sum = 0;
      for (size_t p = 0; p < weights.size(); ++p) {
        sum += weights[p] * rows[static_cast<int64_t>(p) * table.size(1) + c];
      }
      result[c] = static_cast<T>(sum);
    }
  });
}

}  // namespace syncbn
