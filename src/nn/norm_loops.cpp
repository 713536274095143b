#include "nn/norm_loops.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

// Into each clone, which an ordinary function is not, being made for another instruction set.
#define SYNCBN_INLINE inline __attribute__((always_inline))

namespace syncbn::loops {
namespace {

// What the exponential needs to know of a floating-point type.
template <class T>
struct Format;
template <>
struct Format<float> {
  using Bits = uint32_t;
  static constexpr int kMantissa = 23, kBias = 127;
  static constexpr int kDegree = 7;                   // error r⁸/8! ≤ 5.2e-9
  static constexpr float kLn2High = 0x1.63p-1F;       // times k: exact
  static constexpr float kLn2Low = -0x1.bd0106p-13F;  // ln 2 − kLn2High
};
template <>
struct Format<double> {
  using Bits = uint64_t;
  static constexpr int kMantissa = 52, kBias = 1023;
  static constexpr int kDegree = 13;  // error r¹⁴/14! ≤ 4.2e-18
  static constexpr double kLn2High = 0x1.62e42feep-1;
  static constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
};

// 1/n! + r·(1/(n+1)! + r·(…)), the tail of the exponential series.
template <class T, int n>
SYNCBN_INLINE T series(T r, double inverse_factorial) {
  const T coefficient = static_cast<T>(inverse_factorial);
  if constexpr (n == Format<T>::kDegree) {
    return coefficient;
  } else {
    return std::fma(r, series<T, n + 1>(r, inverse_factorial / (n + 1)), coefficient);
  }
}

// exp(x) = scale·(1 + rest): scale a power of two, rest = exp(r) − 1 of the remainder |r| ≤
// ln(2)/2. Branch-free, so that the compiler vectorises it; std::fma by name, because what the
// compiler contracts of its own accord may differ between a vector and the tail. Where the scale
// would be no normal number it is 0 or infinite.
template <class T>
struct Exponential {
  T scale, rest;

  SYNCBN_INLINE explicit Exponential(T x) {
    using F = Format<T>;
    using Bits = typename F::Bits;
    constexpr T kLog2E = static_cast<T>(0x1.71547652b82fep+0);
    constexpr T kLowest = -F::kBias * static_cast<T>(0x1.62e42fefa39efp-1);
    constexpr T kHighest = (F::kBias + 1) * static_cast<T>(0x1.62e42fefa39efp-1);
    // Adding 1.5·2^mantissa rounds to an integer, which is then the low bits of the sum.
    constexpr T kRounder = static_cast<T>(Bits{3} << (F::kMantissa - 1));
    const T above = kLowest > x ? kLowest : x;  // NaN stays
    const T bounded = kHighest < above ? kHighest : above;
    const T sum = std::fma(bounded, kLog2E, kRounder);
    const T k = sum - kRounder;
    const T r = std::fma(k, -F::kLn2Low, std::fma(k, -F::kLn2High, bounded));
    rest = std::fma(r * r, series<T, 2>(r, 0.5), r);
    Bits bits;
    std::memcpy(&bits, &sum, sizeof(T));
    bits = (bits + F::kBias) << F::kMantissa;
    std::memcpy(&scale, &bits, sizeof(T));
  }
};

// The activations: value f(x), and gradient dy·f'(x) from y = f(x). Comparisons are written so that
// NaN passes, as max(0, NaN) must not hide a diverged run.
struct Identity {
  template <class T>
  static SYNCBN_INLINE T value(T x) {
    return x;
  }
  template <class T>
  static SYNCBN_INLINE T gradient(T, T dy) {
    return dy;
  }
};
struct Relu {
  template <class T>
  static SYNCBN_INLINE T value(T x) {
    return x <= T(0) ? T(0) : x;
  }
  template <class T>
  static SYNCBN_INLINE T gradient(T y, T dy) {
    return y <= T(0) ? T(0) : dy;
  }
};
struct Sigmoid {
  template <class T>
  static SYNCBN_INLINE T value(T x) {
    const Exponential<T> e(-x);
    return T(1) / std::fma(e.scale, T(1) + e.rest, T(1));
  }
  template <class T>
  static SYNCBN_INLINE T gradient(T y, T dy) {
    return dy * (y * (T(1) - y));
  }
};
struct Tanh {
  // (1 − e)/(1 + e) with e = exp(−2|x|), by e − 1, which keeps its digits near 0.
  template <class T>
  static SYNCBN_INLINE T value(T x) {
    const Exponential<T> e(T(-2) * std::abs(x));
    const T less_one = std::fma(e.scale, e.rest, e.scale - T(1));
    return std::copysign(less_one / (T(2) + less_one), x);
  }
  template <class T>
  static SYNCBN_INLINE T gradient(T y, T dy) {
    return dy * ((T(1) - y) * (T(1) + y));
  }
};

// Σ f(i) over i < n, in eight partial sums whatever the vector width, so that any CPU adds alike.
template <class F>
SYNCBN_INLINE double sum_of(int64_t n, F f) {
  constexpr int64_t kLanes = 8;
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
#pragma omp simd
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += f(i + lane);
  }
  for (int64_t lane = 0; i < n; ++i, ++lane) lanes[lane] += f(i);
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (int64_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

template <class F>
void with_function(Activation activation, F&& f) {
  switch (activation) {
    case Activation::kNone:
      return f(Identity{});
    case Activation::kRelu:
      return f(Relu{});
    case Activation::kSigmoid:
      return f(Sigmoid{});
    case Activation::kTanh:
      return f(Tanh{});
  }
}

}  // namespace

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

template <class T, class F>
SYNCBN_CLONES void affine_as(const T* x, Block block, const double* scale, const double* shift,
                             T* y) {
  for (int64_t i = 0; i < block.rows; ++i) {
    const T* in = x + i * block.stride;
    T* out = y + i * block.stride;
#pragma omp simd
    for (int64_t c = 0; c < block.columns; ++c) {
      // Rounded before the activation: GCC does not vectorise a conversion behind a condition.
      out[c] = F::value(static_cast<T>(static_cast<double>(in[c]) * scale[c] + shift[c]));
    }
  }
}

template <class T>
void affine(const T* x, Block block, const double* scale, const double* shift,
            Activation activation, T* y) {
  with_function(activation, [&](auto function) {
    affine_as<T, decltype(function)>(x, block, scale, shift, y);
  });
}

template <class T, class F>
SYNCBN_CLONES void backward_sums_as(const T* x, const T* y, T* dy, Block block, const double* mean,
                                    const double* inv_std, double* sum_dy, double* sum_dy_xhat) {
  const int64_t columns = block.columns;
  std::fill_n(sum_dy, columns, 0.0);
  std::fill_n(sum_dy_xhat, columns, 0.0);
  for (int64_t i = 0; i < block.rows; ++i) {
    const T* in = x + i * block.stride;
    const T* out = y + i * block.stride;
    T* gradient = dy + i * block.stride;
    if constexpr (!std::is_same_v<F, Identity>) {
#pragma omp simd
      for (int64_t c = 0; c < columns; ++c) gradient[c] = F::gradient(out[c], gradient[c]);
    }
    // A loop of its own: GCC does not vectorise a conversion behind a condition.
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
void backward_sums(const T* x, const T* y, T* dy, Block block, Activation activation,
                   const double* mean, const double* inv_std, double* sum_dy, double* sum_dy_xhat) {
  with_function(activation, [&](auto function) {
    backward_sums_as<T, decltype(function)>(x, y, dy, block, mean, inv_std, sum_dy, sum_dy_xhat);
  });
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

template <class T>
SYNCBN_CLONES void layer_norm(const T* x, Block block, const T* gamma, const T* beta, double eps,
                              double* mean, double* inv_std, T* y) {
  const int64_t columns = block.columns;
  const double inverse = 1.0 / static_cast<double>(columns);
  for (int64_t i = 0; i < block.rows; ++i) {
    const T* in = x + i * block.stride;
    T* out = y + i * block.stride;
    const double centre =
        inverse * sum_of(columns, [in](int64_t c) { return static_cast<double>(in[c]); });
    const double variance = inverse * sum_of(columns, [in, centre](int64_t c) {
                              const double deviation = static_cast<double>(in[c]) - centre;
                              return deviation * deviation;
                            });
    const double scale = 1.0 / std::sqrt(variance + eps);
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c) {
      const double x_hat = (static_cast<double>(in[c]) - centre) * scale;
      out[c] = static_cast<T>(x_hat * static_cast<double>(gamma[c]) + static_cast<double>(beta[c]));
    }
    mean[i] = centre;
    inv_std[i] = scale;
  }
}

template <class T>
SYNCBN_CLONES void layer_norm_backward(const T* x, const T* dy, Block block, const T* gamma,
                                       const double* mean, const double* inv_std,
                                       double* sum_dy_xhat, double* sum_dy, T* dx) {
  const int64_t columns = block.columns;
  const double inverse = 1.0 / static_cast<double>(columns);
  std::fill_n(sum_dy_xhat, columns, 0.0);
  std::fill_n(sum_dy, columns, 0.0);
  for (int64_t i = 0; i < block.rows; ++i) {
    const T* in = x + i * block.stride;
    const T* gradient = dy + i * block.stride;
    T* out = dx + i * block.stride;
    const double centre = mean[i], scale = inv_std[i];
    const double along_one =
        inverse * sum_of(columns, [=](int64_t c) {
          return static_cast<double>(gradient[c]) * static_cast<double>(gamma[c]);
        });
    const double along_xhat = inverse * sum_of(columns, [=](int64_t c) {
                                return static_cast<double>(gradient[c]) *
                                       static_cast<double>(gamma[c]) *
                                       ((static_cast<double>(in[c]) - centre) * scale);
                              });
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c) {
      const auto g = static_cast<double>(gradient[c]);
      const double x_hat = (static_cast<double>(in[c]) - centre) * scale;
      sum_dy[c] += g;
      sum_dy_xhat[c] += g * x_hat;
      out[c] = static_cast<T>(scale *
                              (g * static_cast<double>(gamma[c]) - along_one - x_hat * along_xhat));
    }
  }
}

// NOLINTBEGIN(bugprone-macro-parentheses): T is a type
#define SYNCBN_INSTANTIATE(T)                                                                     \
  template void moments<T>(const T*, Block, double*, double*);                                    \
  template void affine<T>(const T*, Block, const double*, const double*, Activation, T*);         \
  template void backward_sums<T>(const T*, const T*, T*, Block, Activation, const double*,        \
                                 const double*, double*, double*);                                \
  template void input_gradient<T>(const T*, const T*, Block, const double*, const double*,        \
                                  const double*, T*);                                             \
  template void layer_norm<T>(const T*, Block, const T*, const T*, double, double*, double*, T*); \
  template void layer_norm_backward<T>(const T*, const T*, Block, const T*, const double*,        \
                                       const double*, double*, double*, T*);
SYNCBN_INSTANTIATE(float)
SYNCBN_INSTANTIATE(double)
// NOLINTEND(bugprone-macro-parentheses)

}  // namespace syncbn::loops
