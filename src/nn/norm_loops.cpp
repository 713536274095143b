#include "nn/norm_loops.hpp"

#include <algorithm>

namespace syncbn::loops {

template <class T>
SYNCBN_CLONES void moments(const T* x, Block block, double* mean, double* m2) {
  const int64_t columns = block.columns;
  std::fill_n(mean, columns, 0.0);
  std::fill_n(m2, columns, 0.0);
  if (block.rows == 0) return;
  for (int64_t i = 0; i < block.rows; ++i) {
    const T* row = x + i * block.stride;
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c) mean[c] += static_cast<double>(row[c]);
  }
  const double inverse = 1.0 / static_cast<double>(block.rows);
#pragma omp simd
  for (int64_t c = 0; c < columns; ++c) mean[c] *= inverse;
  for (int64_t i = 0; i < block.rows; ++i) {
    const T* row = x + i * block.stride;
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c) {
      const double deviation = static_cast<double>(row[c]) - mean[c];
      m2[c] += deviation * deviation;
    }
  }
}

template <class T>
SYNCBN_CLONES void affine(const T* x, Block block, const double* scale, const double* shift,
                          bool relu, T* y) {
  for (int64_t i = 0; i < block.rows; ++i) {
    const T* in = x + i * block.stride;
    T* out = y + i * block.stride;
    if (relu) {
      // Written so that NaN passes through, as max(0, NaN) must not hide a diverged run; rounded
      // before the comparison, because GCC does not vectorise a conversion behind a condition.
#pragma omp simd
      for (int64_t c = 0; c < block.columns; ++c) {
        const T value = static_cast<T>(static_cast<double>(in[c]) * scale[c] + shift[c]);
        out[c] = value <= T(0) ? T(0) : value;
      }
    } else {
#pragma omp simd
      for (int64_t c = 0; c < block.columns; ++c) {
        out[c] = static_cast<T>(static_cast<double>(in[c]) * scale[c] + shift[c]);
      }
    }
  }
}

template <class T>
SYNCBN_CLONES void mask(const T* y, Block block, T* dy) {
  for (int64_t i = 0; i < block.rows; ++i) {
    const T* out = y + i * block.stride;
    T* gradient = dy + i * block.stride;
#pragma omp simd
    for (int64_t c = 0; c < block.columns; ++c) gradient[c] = out[c] <= T(0) ? T(0) : gradient[c];
  }
}

template <class T>
SYNCBN_CLONES void backward_sums(const T* x, const T* dy, Block block, const double* mean,
                                 const double* inv_std, double* sum_dy, double* sum_dy_xhat) {
  const int64_t columns = block.columns;
  std::fill_n(sum_dy, columns, 0.0);
  std::fill_n(sum_dy_xhat, columns, 0.0);
  for (int64_t i = 0; i < block.rows; ++i) {
    const T* in = x + i * block.stride;
    const T* gradient = dy + i * block.stride;
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c) {
      const auto g = static_cast<double>(gradient[c]);
      sum_dy[c] += g;
      sum_dy_xhat[c] += g * (static_cast<double>(in[c]) - mean[c]);
    }
  }
#pragma omp simd
  for (int64_t c = 0; c < columns; ++c) sum_dy_xhat[c] *= inv_std[c];
}

template <class T>
SYNCBN_CLONES void input_gradient(const T* x, const T* dy, Block block, const double* a,
                                  const double* b, const double* c, T* dx) {
  for (int64_t i = 0; i < block.rows; ++i) {
    const T* in = x + i * block.stride;
    const T* gradient = dy + i * block.stride;
    T* out = dx + i * block.stride;
#pragma omp simd
    for (int64_t j = 0; j < block.columns; ++j) {
      out[j] = static_cast<T>(a[j] * static_cast<double>(gradient[j]) +
                              b[j] * static_cast<double>(in[j]) + c[j]);
    }
  }
}

// NOLINTBEGIN(bugprone-macro-parentheses): T is a type
#define SYNCBN_INSTANTIATE(T)                                                                      \
  template void moments<T>(const T*, Block, double*, double*);                                     \
  template void affine<T>(const T*, Block, const double*, const double*, bool, T*);                \
  template void mask<T>(const T*, Block, T*);                                                      \
  template void backward_sums<T>(const T*, const T*, Block, const double*, const double*, double*, \
                                 double*);                                                         \
  template void input_gradient<T>(const T*, const T*, Block, const double*, const double*,         \
                                  const double*, T*);
SYNCBN_INSTANTIATE(float)
SYNCBN_INSTANTIATE(double)
// NOLINTEND(bugprone-macro-parentheses)

}  // namespace syncbn::loops
