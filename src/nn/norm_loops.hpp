// The CPU loops of norm_kernels.cpp and layer_norm.cpp over raw memory. Vectorised by the compiler,
// one clone per instruction set, so that one binary serves a cluster; no -ffast-math and no
// contraction to fused multiply-adds, so that an element has the same bits in a vector, in the
// loop's tail and on any CPU.
#pragma once

#include <cstdint>

#include "nn/activation_kind.hpp"

#if defined(SYNCBN_NO_TARGET_CLONES) || defined(__clang__)  // Clang: not on templates yet
#define SYNCBN_CLONES
#else
#define SYNCBN_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#endif

namespace syncbn::loops {

/// Rows × columns of a row-major matrix; `stride` elements from one row to the next.
struct Block {
  int64_t rows, columns, stride;
};

/// mean[c], m2[c] of the block.
template <class T>
void moments(const T* x, Block block, double* mean, double* m2);

/// y = f(x·scale + shift), f the activation. Sigmoid and tanh are within 2 ulp, NaN stays NaN, and
/// what would be below the smallest normal number may be 0.
template <class T>
void affine(const T* x, Block block, const double* scale, const double* shift,
            Activation activation, T* y);

/// dy = dy·f'(…) by the output y of f (for kNone, dy stays and y is not read), then
/// sum_dy[c] = Σ dy, sum_dy_xhat[c] = Σ dy·(x − mean)·inv_std.
template <class T>
void backward_sums(const T* x, const T* y, T* dy, Block block, Activation activation,
                   const double* mean, const double* inv_std, double* sum_dy, double* sum_dy_xhat);

/// dx = a·dy + b·x + c, column by column.
template <class T>
void input_gradient(const T* x, const T* dy, Block block, const double* a, const double* b,
                    const double* c, T* dx);

/// Each row i by its own mean[i] and inv_std[i] = 1/√(variance + eps):
/// y = gamma·(x − mean)·inv_std + beta.
template <class T>
void layer_norm(const T* x, Block block, const T* gamma, const T* beta, double eps, double* mean,
                double* inv_std, T* y);

/// Its input gradient, and sum_dy_xhat[c] = Σ dy·x̂, sum_dy[c] = Σ dy. dx may be dy.
template <class T>
void layer_norm_backward(const T* x, const T* dy, Block block, const T* gamma, const double* mean,
                         const double* inv_std, double* sum_dy_xhat, double* sum_dy, T* dx);

}  // namespace syncbn::loops
