#include "nn/norm_kernels.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.hpp"
#include "nn/activation.hpp"
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

// f(pieces, their rows): all at once if they are equal, unless each is wanted alone.
template <class F>
void for_piece_views(const std::vector<Range>& rows, bool alone, F&& f) {
  const auto pieces = static_cast<int64_t>(rows.size());
  if (pieces > 0 && !alone && equal_pieces(rows)) {
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

void moments(const at::Tensor& x, const std::vector<Range>& rows, bool alone, at::Tensor& stats) {
  check_matrix(x);
  const int64_t features = x.size(1);
  if (!x.is_cpu()) {
    for_piece_views(rows, alone, [&](Range pieces, Range r) {
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

void merge_moments(const at::Tensor& from, int64_t j, at::Tensor& into, int64_t i) {
  const int64_t width = into.size(1), features = (width - 1) / 2;
  if (!into.is_cpu()) {
    const at::Tensor part = from[j], total = into[i];
    const at::Tensor count = part[0] + total[0], share = part[0] / count.clamp_min(1);
    const at::Tensor delta = part.narrow(0, 1, features) - total.narrow(0, 1, features);
    total.narrow(0, 1 + features, features)
        .add_(part.narrow(0, 1 + features, features) + delta.square() * (total[0] * share));
    total.narrow(0, 1, features).add_(delta * share);
    total[0].copy_(count);
    return;
  }
  const double* part = from.const_data_ptr<double>() + j * width;
  double* total = into.mutable_data_ptr<double>() + i * width;
  if (part[0] == 0) return;
  const double count = total[0] + part[0];
  const double share = part[0] / count, cross = total[0] * share;
  for (int64_t c = 1; c <= features; ++c) {
    const double delta = part[c] - total[c];
    total[c] += delta * share;
    total[features + c] += part[features + c] + delta * delta * cross;
  }
  total[0] = count;
}

void add_row(const at::Tensor& from, int64_t j, at::Tensor& into, int64_t i) {
  if (!into.is_cpu()) {
    into[i].add_(from[j]);
    return;
  }
  const int64_t width = into.size(1);
  const double* part = from.const_data_ptr<double>() + j * width;
  double* total = into.mutable_data_ptr<double>() + i * width;
  for (int64_t c = 0; c < width; ++c) total[c] += part[c];
}

void normalise(const at::Tensor& x, const std::vector<Range>& rows, const at::Tensor& stats,
               const at::Tensor& gamma, const at::Tensor& beta, double eps, Activation activation,
               at::Tensor& y) {
  check_matrix(x);
  const int64_t features = x.size(1);
  if (!x.is_cpu()) {
    for_piece_views(rows, /*alone=*/false, [&](Range pieces, Range r) {
      const DeviceConstants k(stats, pieces, features, eps);
      const at::Tensor value = (view_pieces(x, pieces, r) - k.mean) * (k.inv_std * gamma) + beta;
      view_pieces(y, pieces, r).copy_(value);
    });
    activate(activation, y, y);
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
        loops::affine(data + first, {r.size(), columns, features}, scale, shift, activation,
                      out + first);
      });
      s += 2 * features + 1;
    }
  });
}

void backward_sums(const at::Tensor& x, const at::Tensor& y, at::Tensor& dy,
                   const std::vector<Range>& rows, const at::Tensor& stats, double eps,
                   Activation activation, bool alone, at::Tensor& sums) {
  check_matrix(x);
  const int64_t features = x.size(1);
  if (!x.is_cpu()) {
    activation_gradient(activation, y, dy, dy);
    for_piece_views(rows, alone, [&](Range pieces, Range r) {
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
    const T* output = y.const_data_ptr<T>();
    T* gradient = dy.mutable_data_ptr<T>();
    const auto* s = stats.const_data_ptr<double>();
    auto* out = sums.mutable_data_ptr<double>();
    for (const Range r : rows) {
      for_column_blocks(r, features, [&](int64_t c, int64_t columns) {
        const Constants k(s, features, c, columns, eps);
        const int64_t first = r.begin * features + c;
        loops::backward_sums(data + first, output + first, gradient + first,
                             {r.size(), columns, features}, activation, k.mean, k.inv_std, out + c,
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
    for_piece_views(rows, /*alone=*/false, [&](Range pieces, Range r) {
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

namespace {

void weighted_sum_on_device(const at::Tensor& rows, const double* weights, at::Tensor out) {
  const int64_t count = rows.size(0);
  if (count == 0) {
    out.zero_();
  } else if (std::count(weights, weights + count, weights[0]) == count) {
    out.copy_(rows.sum(0) * weights[0]);
  } else {
    at::Tensor sum = at::zeros_like(rows[0]);
    for (int64_t p = 0; p < count; ++p) sum.add_(rows[p], weights[p]);
    out.copy_(sum);
  }
}

}  // namespace

void weighted_sums(const at::Tensor& table, int64_t first, const std::vector<double>& weights,
                   const std::vector<Range>& runs, at::Tensor& parts) {
  const int64_t width = parts.size(1), stride = table.size(1);
  if (!parts.is_cpu()) {
    for (size_t s = 0; s < runs.size(); ++s) {
      weighted_sum_on_device(table.narrow(0, runs[s].begin, runs[s].size()).narrow(1, first, width),
                             weights.data() + runs[s].begin, parts[static_cast<int64_t>(s)]);
    }
    return;
  }
  with_dtype(parts, [&](auto zero) {
    using T = decltype(zero);
    T* result = parts.mutable_data_ptr<T>();
    const auto* rows = table.const_data_ptr<double>() + first;
    for (const Range run : runs) {
      for (int64_t c = 0; c < width; ++c) {
        double sum = 0;
        for (int64_t p = run.begin; p < run.end; ++p) {
          sum += weights[static_cast<size_t>(p)] * rows[p * stride + c];
        }
        result[c] = static_cast<T>(sum);
      }
      result += width;
    }
  });
}

}  // namespace syncbn
