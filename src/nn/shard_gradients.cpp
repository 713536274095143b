#include "nn/shard_gradients.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>

#include "base/error.hpp"
#include "nn/sum_loops.hpp"

namespace syncbn {
namespace {

// The CPU kernel keeps a tile of the gradient in registers while it passes over a shard's rows, and
// a tile per level of the tree on the stack. A matrix product per shard instead would write the
// whole gradient once per shard: at 8 rows a shard that costs twice the time (measured, one core,
// 64 rows, 768 → 126 features: 137 µs against 188 for the products and 66 for adding them up).
constexpr int64_t kTileRows = 6, kVectors = 4;  // 24 accumulators: AVX-512 has 32 registers
constexpr int64_t kVectorBytes = 64;
constexpr size_t kDepth = 24;  // levels of a tree over 2^22 shards
// Rows that the kernel passes over at once: more of them leave the cache before the next tile
// (measured against a library's blocked product: as fast at 512 rows, half as fast at 2048).
constexpr int64_t kUnitRows = 512;

template <class T>
struct Matrix {
  T* data;
  int64_t stride;
};

// dyᵀ x over the shards of `sum`, whose rows are `rows`.
template <class T>
struct Product {
  Matrix<const T> dy, x;
  const Range* rows;
  const TreeSum& sum;
  bool resume;  // adds to what `out` holds of the first shard
};

// out (O, V · Bytes / sizeof(T)) ← O features of dy against as many vectors of x, from (o, i) on.
template <class T, int64_t O, int64_t V, int64_t Bytes>
[[gnu::always_inline]] inline void tile(const Product<T>& p, int64_t o, int64_t i, Matrix<T> out) {
  constexpr int64_t kLanes = Bytes / static_cast<int64_t>(sizeof(T));
  typedef T Vector __attribute__((vector_size(Bytes)));  // NOLINT: the attribute needs a typedef
  alignas(64) Vector stack[kDepth][O][V];
  size_t depth = 0;
  const T* dy = p.dy.data + o;
  const T* x = p.x.data + i;
  T* result = out.data + o * out.stride + i;
  for (size_t part = 0; part < p.sum.parts.size(); ++part) {
    const Range shard = p.rows[p.sum.parts[part]];
    Vector total[O][V] = {};
    if (p.resume) {
      for (int64_t j = 0; j < O; ++j) {
        for (int64_t v = 0; v < V; ++v) {
          std::memcpy(&total[j][v], result + j * out.stride + v * kLanes, Bytes);
        }
      }
    }
    for (int64_t r = shard.begin; r < shard.end; ++r) {
      Vector in[V];
      for (int64_t v = 0; v < V; ++v) {
        std::memcpy(&in[v], x + r * p.x.stride + v * kLanes, Bytes);
      }
      for (int64_t j = 0; j < O; ++j) {
        const T gradient = dy[r * p.dy.stride + j];
        for (int64_t v = 0; v < V; ++v) total[j][v] += gradient * in[v];
      }
    }
    for (int m = 0; m < p.sum.merges[part]; ++m) {
      --depth;
      for (int64_t j = 0; j < O; ++j) {
        for (int64_t v = 0; v < V; ++v) total[j][v] = stack[depth][j][v] + total[j][v];
      }
    }
    for (int64_t j = 0; j < O; ++j) {
      for (int64_t v = 0; v < V; ++v) stack[depth][j][v] = total[j][v];
    }
    ++depth;
  }
  for (int64_t j = 0; j < O; ++j)
    std::memcpy(result + j * out.stride, stack[0][j], sizeof stack[0][j]);
}

// All features of dy against the vectors of x from column i on.
template <class T, int64_t V, int64_t Bytes>
SYNCBN_CLONES void columns(const Product<T>& p, int64_t i, Matrix<T> out) {
  int64_t o = 0;
  for (; o + kTileRows <= p.dy.stride; o += kTileRows) tile<T, kTileRows, V, Bytes>(p, o, i, out);
  for (; o < p.dy.stride; ++o) tile<T, 1, V, Bytes>(p, o, i, out);
}

template <class T>
void on_cpu(const Product<T>& p, int64_t rows, Matrix<T> out) {
  constexpr auto kLanes = kVectorBytes / static_cast<int64_t>(sizeof(T));
  constexpr int64_t kWidth = kVectors * kLanes, kQuarter = kLanes / 4;
  constexpr int64_t kGrain = 1 << 18;  // multiplications per thread below which threads cost more
  const int64_t in_features = p.x.stride, blocks = in_features / kWidth;
  const int64_t work = std::max<int64_t>(1, rows * p.dy.stride * kWidth);
  at::parallel_for(0, blocks, std::max<int64_t>(1, kGrain / work), [&](int64_t b, int64_t end) {
    for (; b < end; ++b) columns<T, kVectors, kVectorBytes>(p, b * kWidth, out);
  });
  int64_t i = blocks * kWidth;  // the rest, in ever narrower vectors
  for (; i + kLanes <= in_features; i += kLanes) columns<T, 1, kVectorBytes>(p, i, out);
  for (; i + kQuarter <= in_features; i += kQuarter) columns<T, 1, kVectorBytes / 4>(p, i, out);
  for (; i < in_features; ++i) columns<T, 1, sizeof(T)>(p, i, out);
}

template <class T>
void on_cpu(const at::Tensor& dy, const at::Tensor& x, const std::vector<Range>& rows,
            const TreeSum& unit, at::Tensor& result) {
  const Matrix<const T> gradient = {dy.const_data_ptr<T>(), dy.size(1)};
  const Matrix<const T> input = {x.const_data_ptr<T>(), x.size(1)};
  const Matrix<T> out = {result.mutable_data_ptr<T>(), result.size(1)};
  const Range first = rows[static_cast<size_t>(unit.parts.front())];
  const Range last = rows[static_cast<size_t>(unit.parts.back())];
  if (unit.parts.size() > 1 || first.size() <= kUnitRows) {
    on_cpu<T>({gradient, input, rows.data(), unit, false}, last.end - first.begin, out);
    return;
  }
  static const TreeSum one = {{0}, {0}};
  for (int64_t begin = first.begin; begin < first.end; begin += kUnitRows) {
    const Range part = {begin, std::min(begin + kUnitRows, first.end)};
    on_cpu<T>({gradient, input, &part, one, begin > first.begin}, part.size(), out);
  }
}

template <class T>
void add_to(T* into, const T* from, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) into[i] += from[i];
}

void compute_unit(const at::Tensor& dy, const at::Tensor& x, const std::vector<Range>& rows,
                  const TreeSum& unit, at::Tensor& out) {
  if (!x.is_cpu()) {
    // Copies always lie alike, and cuBLAS chooses its kernel by the alignment too.
    const Range r = rows[static_cast<size_t>(unit.parts[0])];
    at::mm_out(out, dy.narrow(0, r.begin, r.size()).clone().t(),
               x.narrow(0, r.begin, r.size()).clone());
  } else if (x.scalar_type() == at::kFloat) {
    on_cpu<float>(dy, x, rows, unit, out);
  } else {
    on_cpu<double>(dy, x, rows, unit, out);
  }
}

// The units of a node, in order: of at most `most` rows, or of a single shard.
void cut(Range node, const std::vector<Range>& rows, int64_t first_shard, int64_t most,
         std::vector<Range>& units) {
  int64_t samples = 0;
  for (int64_t v = node.begin; v < node.end; ++v) {
    samples += rows[static_cast<size_t>(v - first_shard)].size();
  }
  if (node.size() == 1 || samples <= most) {
    units.push_back(node);
    return;
  }
  const auto [left, right] = tree_halves(node);
  cut(left, rows, first_shard, most, units);
  cut(right, rows, first_shard, most, units);
}

}  // namespace

void WeightGradient::prepare(const std::vector<Range>& rows, bool cpu) {
  if (rows_ == &rows) return;
  rows_ = &rows;
  nodes_.clear();
  const Range mine = sharding_.mine();
  for (const Range range : tree_nodes(sharding_.shards, mine)) {
    std::vector<Range> units;
    constexpr int64_t kEachAlone = -1;  // a product per shard, in the shard's own shape
    cut(range, rows, mine.begin, cpu ? kUnitRows : kEachAlone, units);
    Node node;
    node.merges = tree_merges(sharding_.shards, units);
    for (const Range unit : units) node.units.push_back(sharding_.sum_of(unit));
    nodes_.push_back(std::move(node));
  }
}

void WeightGradient::operator()(const at::Tensor& dy, const at::Tensor& x,
                                const std::vector<Range>& rows, std::vector<at::Tensor>& nodes) {
  prepare(rows, x.is_cpu());
  for (size_t k = 0; k < nodes_.size(); ++k) {
    const Node& node = nodes_[k];
    const auto place = [&](size_t depth) -> at::Tensor& {
      if (depth == 0) return nodes[k];
      if (scratch_.size() < depth) scratch_.push_back(at::empty_like(nodes[k]));
      return scratch_[depth - 1];
    };
    size_t depth = 0;
    for (size_t i = 0; i < node.units.size(); ++i) {
      compute_unit(dy, x, rows, node.units[i], place(depth++));
      for (int m = 0; m < node.merges[i]; ++m, --depth) place(depth - 2).add_(place(depth - 1));
    }
  }
}

void column_sums(const at::Tensor& dy, const std::vector<Range>& rows, at::Tensor& parts) {
  const int64_t features = dy.size(1);
  if (!dy.is_cpu()) {
    for (size_t s = 0; s < rows.size(); ++s) {
      parts[static_cast<int64_t>(s)].copy_(
          dy.narrow(0, rows[s].begin, rows[s].size()).sum(0, /*keepdim=*/false, at::kDouble));
    }
    return;
  }
  const auto sum = [&](auto* out) {
    using T = std::remove_pointer_t<decltype(out)>;
    const T* in = dy.const_data_ptr<T>();
    for (const Range r : rows) {
      loops::column_sums(in + r.begin * features, {r.size(), features, features}, out);
      out += features;
    }
  };
  if (dy.scalar_type() == at::kFloat) {
    sum(parts.mutable_data_ptr<float>());
  } else {
    sum(parts.mutable_data_ptr<double>());
  }
}

void sum_shards(const std::vector<TreeSum>& sums, at::Tensor& parts,
                std::vector<at::Tensor>& nodes) {
  const int64_t width = parts.size(1);
  for (size_t k = 0; k < sums.size(); ++k) {
    int64_t total = 0;
    if (!parts.is_cpu()) {
      total = add_in_order(sums[k], [&](int64_t a, int64_t b) { parts[a].add_(parts[b]); });
      nodes[k].copy_(parts[total]);
      continue;
    }
    const auto add = [&](auto* rows, auto* out) {
      total = add_in_order(sums[k], [&](int64_t a, int64_t b) {
        add_to(rows + a * width, rows + b * width, width);
      });
      std::copy_n(rows + total * width, width, out);
    };
    if (parts.scalar_type() == at::kFloat) {
      add(parts.mutable_data_ptr<float>(), nodes[k].mutable_data_ptr<float>());
    } else {
      add(parts.mutable_data_ptr<double>(), nodes[k].mutable_data_ptr<double>());
    }
  }
}

}  // namespace syncbn
