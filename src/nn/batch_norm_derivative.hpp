// Internal to nn/*.cpp: the backward of batch norm over ranks as a composition of differentiable
// operations, for gradients of gradients.
#pragma once

#include <ATen/core/Tensor.h>

#include "comm/communicator.hpp"

namespace syncbn {

struct BatchNormGradients {
  at::Tensor x, gamma, beta;
};

/// The gradients of y = γ·x̂ + β for dy, as nn/batch_norm_function.hpp defines them; stats are those
/// of the forward. Collective, and so are its derivatives.
///
/// Source: Ioffe and Szegedy (2015), section 3, with the sums over all ranks:
///   dx = γ·s·(dy − Σdy/m − x̂·Σdy·x̂/m),  dγ = Σdy·x̂,  dβ = Σdy,  s = 1/√(variance + eps).
BatchNormGradients differentiable_gradients(const at::Tensor& x, const at::Tensor& gamma,
                                            const at::Tensor& stats, const at::Tensor& dy,
                                            double eps, const CommPtr& comm);

}  // namespace syncbn
