// Internal to nn/*.cpp: carries a communicator from the forward of an autograd function to its
// backward.
#pragma once

#include <torch/csrc/autograd/custom_function.h>

#include <utility>

#include "comm/communicator.hpp"

namespace syncbn {

struct SavedCommunicator : public torch::CustomClassHolder {
  explicit SavedCommunicator(CommPtr c) : comm(std::move(c)) {}
  CommPtr comm;
};

inline void save_communicator(torch::autograd::AutogradContext& context, CommPtr comm) {
  context.saved_data["comm"] =
      c10::IValue::make_capsule(c10::make_intrusive<SavedCommunicator>(std::move(comm)));
}

inline CommPtr saved_communicator(torch::autograd::AutogradContext& context) {
  return c10::static_intrusive_pointer_cast<SavedCommunicator>(
             context.saved_data["comm"].toCapsule())
      ->comm;
}

}  // namespace syncbn
