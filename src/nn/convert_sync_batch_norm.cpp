#include "nn/convert_sync_batch_norm.hpp"

#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/any.h>
#include <torch/nn/modules/container/sequential.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <typeinfo>
#include <utility>
#include <vector>

#include "base/error.hpp"
#include "nn/sync_batch_norm.hpp"

namespace syncbn {
namespace {

using torch::nn::AnyModule;
using torch::nn::BatchNorm1dImpl;
using torch::nn::BatchNorm2dImpl;
using torch::nn::BatchNorm3dImpl;
using torch::nn::Module;
using torch::nn::SequentialImpl;
using ModulePtr = std::shared_ptr<Module>;

/// One entry of a Sequential that is to be replaced.
struct Entry {
  SequentialImpl* owner;
  size_t index;
  std::string name;  ///< in its owner
  std::string path;
  ModulePtr old;
};

struct Search {
  std::function<bool(const Module&)> wanted;
  std::vector<Entry> entries;
  std::vector<std::string> out_of_reach;  ///< paths

  void walk(Module& module, const std::string& path) {
    auto* sequential = dynamic_cast<SequentialImpl*>(&module);
    size_t index = 0;
    for (const auto& child : module.named_children()) {
      const std::string child_path = path.empty() ? child.key() : path + "." + child.key();
      if (!wanted(*child.value())) {
        walk(*child.value(), child_path);
      } else if (sequential != nullptr && index < sequential->size() &&
                 sequential->ptr(index) == child.value()) {
        entries.push_back({sequential, index, child.key(), child_path, child.value()});
      } else {
        out_of_reach.push_back(child_path);
      }
      ++index;
    }
  }
};

std::string join(const std::vector<std::string>& paths) {
  std::string list;
  for (const std::string& path : paths) list += (list.empty() ? "" : ", ") + path;
  return list;
}

/// The paths of entries whose layer something holds that is not in the model.
std::vector<std::string> held_outside(const std::vector<Entry>& entries) {
  std::vector<std::string> paths;
  for (const Entry& entry : entries) {
    long known = 0;  // an entry's AnyModule, its owner's list of children, and `entries`
    for (const Entry& other : entries) known += other.old == entry.old ? 3 : 0;
    if (entry.old.use_count() > known) paths.push_back(entry.path);
  }
  return paths;
}

/// Finds all layers that are `wanted`, or throws with the paths of those that cannot be replaced.
std::vector<Entry> entries_below(Module& model, const std::string& function,
                                 std::function<bool(const Module&)> wanted, const char* wish) {
  if (wanted(model)) {
    throw Error(concat(function, " replaces layers inside a model, and was given a lone ",
                       model.name(), "; make a ", wish, " of its options in its place."));
  }
  Search search{std::move(wanted), {}, {}};
  search.walk(model, "");
  if (!search.out_of_reach.empty()) {
    throw Error(concat(function, " cannot replace ", join(search.out_of_reach),
                       ": only an entry of a torch::nn::Sequential can be replaced from outside, "
                       "and what holds this would go on using the old layer. Declare it there as ",
                       wish, " (docs/sync_batch_norm.md shows how). Nothing was changed."));
  }
  const std::vector<std::string> held = held_outside(search.entries);
  if (!held.empty()) {
    throw Error(concat(function, " cannot replace ", join(held),
                       ": a variable or member outside the model holds this layer, too, and would "
                       "go on using the old one. Let go of it first (= nullptr). Nothing was "
                       "changed."));
  }
  return std::move(search.entries);
}

/// Reaches the registry of a module's parameters, which is protected.
struct Registry : Module {
  static torch::OrderedDict<std::string, at::Tensor>& parameters_of(Module& module) {
    return module.*(&Registry::parameters_);
  }
};

/// `made` gets the parameter tensors and the buffers' memory of `old`, and its flag.
template <class To, class From>
void adopt(To& made, From& old) {
  made.weight = old.weight;
  made.bias = old.bias;
  auto& registered = Registry::parameters_of(made);
  registered["weight"] = old.weight;
  registered["bias"] = old.bias;
  const auto share = [](at::Tensor& to, const at::Tensor& from) {
    if (to.defined() && from.defined()) to.set_data(from);
  };
  share(made.running_mean, old.running_mean);
  share(made.running_var, old.running_var);
  share(made.num_batches_tracked, old.num_batches_tracked);
  made.train(old.is_training());
}

/// Replaces each entry by what `make` makes of its layer; one that is entered twice is made once.
void replace(const std::vector<Entry>& entries,
             const std::function<std::pair<AnyModule, ModulePtr>(Module&)>& make) {
  std::map<Module*, std::pair<AnyModule, ModulePtr>> made;
  for (const Entry& entry : entries) {
    if (made.count(entry.old.get()) == 0) made.emplace(entry.old.get(), make(*entry.old));
  }
  for (const Entry& entry : entries) {
    const auto& [any, module] = made.at(entry.old.get());
    entry.owner->begin()[static_cast<std::ptrdiff_t>(entry.index)] = any;
    entry.owner->replace_module(entry.name, module);
  }
}

template <class BatchNormImpl>
bool holds(const Module& module) {
  return dynamic_cast<const BatchNormImpl*>(&module) != nullptr;
}

bool is_batch_norm(const Module& m) {
  return holds<BatchNorm1dImpl>(m) || holds<BatchNorm2dImpl>(m) || holds<BatchNorm3dImpl>(m);
}

template <class BatchNormImpl>
SyncBatchNorm synchronized(BatchNormImpl& old, int64_t dims, const CommPtr& comm) {
  SyncBatchNorm made(old.options, comm);
  adopt(*made, old);
  made->set_input_dims(dims);
  return made;
}

SyncBatchNorm synchronized(Module& old, const CommPtr& comm) {
  if (auto* norm = old.as<BatchNorm1dImpl>()) return synchronized(*norm, 2, comm);
  if (auto* norm = old.as<BatchNorm2dImpl>()) return synchronized(*norm, 4, comm);
  return synchronized(*old.as<BatchNorm3dImpl>(), 5, comm);
}

template <class BatchNorm>
std::pair<AnyModule, ModulePtr> reverted(SyncBatchNormImpl& old) {
  BatchNorm made(old.options);
  adopt(*made, old);
  return {AnyModule(made), made.ptr()};
}

std::pair<AnyModule, ModulePtr> reverted(Module& module) {
  SyncBatchNormImpl& old = *module.as<SyncBatchNormImpl>();
  if (old.input_dims() <= 3) return reverted<torch::nn::BatchNorm1d>(old);
  if (old.input_dims() == 4) return reverted<torch::nn::BatchNorm2d>(old);
  return reverted<torch::nn::BatchNorm3d>(old);
}

}  // namespace

void convert_sync_batchnorm(Module& model, const CommPtr& comm) {
  if (!comm) throw Error("convert_sync_batchnorm expected a communicator, found null.");
  const auto entries =
      entries_below(model, "convert_sync_batchnorm", is_batch_norm, "syncbn::SyncBatchNorm");
  for (const Entry& entry : entries) {
    const std::type_info& type = typeid(*entry.old);
    if (type == typeid(BatchNorm1dImpl) || type == typeid(BatchNorm2dImpl) ||
        type == typeid(BatchNorm3dImpl)) {
      continue;
    }
    throw Error(concat("convert_sync_batchnorm cannot replace the layer ", entry.path,
                       ", which is of a class derived from BatchNorm (", entry.old->name(),
                       "): what that class adds would be lost. Nothing was changed."));
  }
  replace(entries, [&](Module& old) -> std::pair<AnyModule, ModulePtr> {
    const SyncBatchNorm made = synchronized(old, comm);
    return {AnyModule(made), made.ptr()};
  });
}

void revert_sync_batchnorm(Module& model) {
  const auto entries = entries_below(model, "revert_sync_batchnorm", holds<SyncBatchNormImpl>,
                                     "torch::nn::BatchNorm");
  for (const Entry& entry : entries) {
    const int64_t dims = entry.old->as<SyncBatchNormImpl>()->input_dims();
    if (dims >= 2 && dims <= 5) continue;
    throw Error(
        concat("revert_sync_batchnorm cannot tell which BatchNorm the layer '", entry.name,
               "' was: it was not converted, and ",
               dims == 0 ? "has seen no input" : concat("its last input had ", dims, " dimensions"),
               ". Nothing was changed."));
  }
  replace(entries, [](Module& old) { return reverted(old); });
}

}  // namespace syncbn
