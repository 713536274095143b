// The CPU loops of norm_kernels.cpp over raw memory. Vectorised by the compiler, one clone per
// instruction set, so that one binary serves a cluster; no -ffast-math.
#pragma once

#include <cstdint>

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

/// y = x·scale + shift, then max(0, ·) if relu.
template <class T>
void affine(const T* x, Block block, const double* scale, const double* shift, bool relu, T* y);

/// dy = 0 where y ≤ 0.
template <class T>
void mask(const T* y, Block block, T* dy);

/// sum_dy[c] = Σ dy, sum_dy_xhat[c] = Σ dy·(x − mean)·inv_std.
template <class T>
void backward_sums(const T* x, const T* dy, Block block, const double* mean, const double* inv_std,
                   double* sum_dy, double* sum_dy_xhat);

/// dx = a·dy + b·x + c, column by column.
template <class T>
void input_gradient(const T* x, const T* dy, Block block, const double* a, const double* b,
                    const double* c, T* dx);

}  // namespace syncbn::loops
