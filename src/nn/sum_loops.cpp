#include "nn/sum_loops.hpp"

#include <algorithm>

namespace syncbn::loops {

template <class T>
SYNCBN_CLONES void column_sums(const T* x, Block block, T* sums) {
  constexpr int64_t kColumns = 64;
  for (int64_t first = 0; first < block.columns; first += kColumns) {
    const int64_t columns = std::min(kColumns, block.columns - first);
    double total[kColumns] = {};
    for (int64_t i = 0; i < block.rows; ++i) {
      const T* row = x + i * block.stride + first;
#pragma omp simd
      for (int64_t c = 0; c < columns; ++c) total[c] += static_cast<double>(row[c]);
    }
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c) sums[first + c] = static_cast<T>(total[c]);
  }
}

template <class T>
SYNCBN_CLONES double square_sum(const T* x, int64_t count) {
  constexpr int64_t kLanes = 16;
  double lanes[kLanes] = {};
  const int64_t whole = count - count % kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) {
#pragma omp simd
    for (int64_t j = 0; j < kLanes; ++j) {
      const auto value = static_cast<double>(x[i + j]);
      lanes[j] += value * value;
    }
  }
  for (int64_t i = whole; i < count; ++i) {
    lanes[i - whole] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  }
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

template void column_sums<float>(const float*, Block, float*);
template void column_sums<double>(const double*, Block, double*);
template double square_sum<float>(const float*, int64_t);
template double square_sum<double>(const double*, int64_t);

}  // namespace syncbn::loops
