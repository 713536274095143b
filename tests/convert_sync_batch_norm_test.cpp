// convert_sync_batchnorm and revert_sync_batchnorm on models of torch's and of users' own.
#include "nn/convert_sync_batch_norm.hpp"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "comm/reduce_gradients.hpp"
#include "nn/sync_batch_norm.hpp"
#include "support/batch_shares.hpp"
#include "support/close.hpp"

namespace syncbn {
namespace {

namespace nn = torch::nn;

/// A Sequential that can be an entry of another one (torch's own cannot).
struct NestedImpl : nn::SequentialImpl {
  using nn::SequentialImpl::SequentialImpl;
  at::Tensor forward(const at::Tensor& x) { return nn::SequentialImpl::forward(x); }
};
TORCH_MODULE(Nested);

/// A user's module that holds a Sequential.
struct BlockImpl : nn::Module {
  BlockImpl() {
    body = register_module("body", nn::Sequential());
    body->push_back("conv", nn::Conv2d(nn::Conv2dOptions(4, 6, 3).padding(1)));
    body->push_back("bn", nn::BatchNorm2d(nn::BatchNormOptions(6).momentum(std::nullopt)));
    body->push_back(nn::ReLU());
  }
  at::Tensor forward(const at::Tensor& x) { return body->forward(x); }
  nn::Sequential body{nullptr};
};
TORCH_MODULE(Block);

/// Conv–BN–ReLU–block–view–linear–BN: in a Sequential within a Sequential and in users' modules.
struct NetImpl : nn::Module {
  NetImpl() {
    torch::manual_seed(3);
    Nested inner(nn::Conv2d(nn::Conv2dOptions(1, 4, 3).padding(1)),
                 nn::BatchNorm2d(nn::BatchNormOptions(4).eps(1e-3)),
                 nn::ReLU(nn::ReLUOptions(true)));
    features = register_module("features", nn::Sequential(inner, Block()));
    head = register_module(
        "head", nn::Sequential(nn::Linear(6 * 5 * 4, 7),
                               nn::BatchNorm1d(nn::BatchNormOptions(7).affine(false)), nn::Tanh(),
                               nn::Linear(7, 1)));
    to(torch::kDouble);
  }
  at::Tensor forward(const at::Tensor& x) {
    const at::Tensor h = features->forward(x);
    return head->forward(h.view({h.size(0), 6 * 5 * 4}));
  }
  nn::Sequential features{nullptr}, head{nullptr};
};
TORCH_MODULE(Net);

template <class Layer>
int count(nn::Module& model) {
  int found = 0;
  for (const auto& module : model.modules()) found += module->as<Layer>() != nullptr ? 1 : 0;
  return found;
}

TEST(ConvertSyncBatchNorm, KeepsAllOfEachLayer) {
  Net net;
  const auto frozen = net->named_parameters()["features.0.1.weight"].set_requires_grad(false);
  net->named_modules()["features.0.1"]->eval();  // frozen statistics
  const auto parameters = net->named_parameters();
  const auto buffers = net->named_buffers();
  convert_sync_batchnorm(*net, world());
  EXPECT_EQ((count<SyncBatchNormImpl>(*net)), 3);
  EXPECT_EQ((count<nn::BatchNorm2dImpl>(*net) + count<nn::BatchNorm1dImpl>(*net)), 0);
  EXPECT_EQ(net->named_parameters().keys(), parameters.keys());
  for (const auto& entry : net->named_parameters()) {
    EXPECT_TRUE(entry.value().is_same(parameters[entry.key()])) << entry.key();
  }
  for (const auto& entry : net->named_buffers()) {
    EXPECT_EQ(entry.value().data_ptr(), buffers[entry.key()].data_ptr()) << entry.key();
    EXPECT_EQ(entry.value().scalar_type(), buffers[entry.key()].scalar_type()) << entry.key();
  }
  const auto layer = [&](const char* path) {
    return net->named_modules()[path]->as<SyncBatchNormImpl>();
  };
  EXPECT_FALSE(layer("features.0.1")->weight.requires_grad());
  EXPECT_FALSE(layer("features.0.1")->is_training());
  EXPECT_EQ(layer("features.0.1")->options.eps(), 1e-3);
  EXPECT_TRUE(layer("features.1.body.bn")->is_training());
  EXPECT_FALSE(layer("features.1.body.bn")->options.momentum().has_value());
  EXPECT_FALSE(layer("head.1")->weight.defined());
}

TEST(ConvertSyncBatchNorm, ComesBackAsItWas) {
  Net net, twin;
  convert_sync_batchnorm(*net, world());
  revert_sync_batchnorm(*net);
  EXPECT_EQ((count<SyncBatchNormImpl>(*net)), 0);
  EXPECT_EQ((count<nn::BatchNorm2dImpl>(*net)), 2);
  EXPECT_EQ((count<nn::BatchNorm1dImpl>(*net)), 1);
  for (int step = 0; step < 2; ++step) {  // on each rank alone
    const at::Tensor x = same_everywhere(step, {6, 1, 5, 4});
    expect_same_bits(net->forward(x), twin->forward(x), "output");
  }
  for (const auto& entry : twin->named_buffers()) {
    expect_same_bits(net->named_buffers()[entry.key()], entry.value(), entry.key());
  }
}

TEST(RevertSyncBatchNorm, GoesByTheInputsSeen) {
  for (const int64_t dims : {2, 3, 4, 5}) {
    nn::Sequential net(SyncBatchNorm(nn::BatchNormOptions(2), world()));
    EXPECT_THROW(revert_sync_batchnorm(*net), Error);
    EXPECT_EQ((count<SyncBatchNormImpl>(*net)), 1);
    std::vector<int64_t> sizes(static_cast<size_t>(dims), 2);
    const at::Tensor x = same_everywhere(1, sizes).to(at::kFloat);
    net->forward(x);
    net->eval();
    const at::Tensor expected = net->forward(x);
    revert_sync_batchnorm(*net);
    expect_same_bits(net->forward(x), expected, "output");
  }
}

// The optimizer was made before; the net is cut among ranks, its twin has the whole batch.
TEST(ConvertSyncBatchNorm, TrainsAsTheWholeBatchDoes) {
  constexpr int64_t kSamples = 12;
  Net net, whole;
  torch::optim::Adam optimizer(net->parameters(), 0.01), reference(whole->parameters(), 0.01);
  convert_sync_batchnorm(*net, world());
  for (int step = 0; step < 4; ++step) {
    const Cut& cut = cuts()[static_cast<size_t>(step)];
    const at::Tensor x = same_everywhere(step, {kSamples, 1, 5, 4});
    const at::Tensor target = x.flatten(1).sum(1, true);
    const auto train_step = [&](Net& model, torch::optim::Adam& by, const at::Tensor& in,
                                const at::Tensor& out) {
      by.zero_grad();
      const at::Tensor loss = (model->forward(in) - out).square().sum() / double{kSamples};
      loss.backward();
      if (&model == &net) reduce_gradients(model->parameters(), world());
      by.step();
      return loss.detach();
    };
    const at::Tensor expected = train_step(whole, reference, x, target);
    const at::Tensor loss = train_step(net, optimizer, own_rows(x, cut), own_rows(target, cut));
    expect_close(summed(loss), expected, 1e-9, "loss");
  }
  for (const auto& entry : whole->named_parameters()) {
    // A bias before a norm layer has a gradient of rounding errors only, which Adam makes large.
    if (entry.key() == "features.0.0.bias" || entry.key() == "features.1.body.conv.bias" ||
        entry.key() == "head.0.bias") {
      continue;
    }
    expect_close(net->named_parameters()[entry.key()], entry.value(), 1e-8, entry.key());
  }
}

TEST(ConvertSyncBatchNorm, ALayerEnteredTwiceStaysOne) {
  nn::Sequential net;
  {
    const nn::BatchNorm1d shared(3);
    net = nn::Sequential(shared, nn::Linear(3, 3), shared);
  }
  convert_sync_batchnorm(*net, world());
  EXPECT_EQ(net->ptr(0), net->ptr(2));
  EXPECT_NE(net->ptr(0)->as<SyncBatchNormImpl>(), nullptr);
  EXPECT_EQ(net->children()[2], net->ptr(2));
}

TEST(ConvertSyncBatchNorm, AModelWithoutBatchNormStays) {
  nn::Sequential net(nn::Linear(3, 3), nn::InstanceNorm1d(3),
                     nn::LayerNorm(nn::LayerNormOptions({3})));
  const auto before = net->children();
  convert_sync_batchnorm(*net, world());
  revert_sync_batchnorm(*net);
  EXPECT_EQ(net->children(), before);
}

struct TypedImpl : nn::Module {
  TypedImpl() { bn = register_module("bn", nn::BatchNorm2d(4)); }
  at::Tensor forward(const at::Tensor& x) { return bn->forward(x); }
  nn::BatchNorm2d bn{nullptr};
};
TORCH_MODULE(Typed);

struct OwnNormImpl : nn::BatchNorm2dImpl {
  using nn::BatchNorm2dImpl::BatchNorm2dImpl;
  at::Tensor forward(const at::Tensor& x) { return 2 * nn::BatchNorm2dImpl::forward(x); }
};
TORCH_MODULE(OwnNorm);

void expect_refused(nn::Module& model, const std::vector<std::string>& parts,
                    const CommPtr& comm = world()) {
  const auto addresses = [&] {
    std::vector<const nn::Module*> all;  // no handles: a layer held elsewhere is refused
    for (const auto& module : model.modules()) all.push_back(module.get());
    return all;
  };
  const auto before = addresses();
  try {
    convert_sync_batchnorm(model, comm);
    ADD_FAILURE() << "no error; expected one that says " << testing::PrintToString(parts);
  } catch (const Error& error) {
    for (const std::string& part : parts) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  }
  EXPECT_EQ(addresses(), before) << "something was changed";
}

TEST(ConvertSyncBatchNorm, RefusesByItsPathWhatItCannotReplace) {
  nn::Sequential net(Nested(nn::Conv2d(1, 4, 3), nn::BatchNorm2d(4)), Typed());
  nn::ModuleList list(nn::BatchNorm1d(3), nn::Linear(3, 3));
  net->push_back("own", OwnNorm(4));
  expect_refused(*net, {"cannot replace 1.bn:", "syncbn::SyncBatchNorm", "Nothing was changed"});
  expect_refused(*list, {"cannot replace 0:"});
  nn::ModuleDict dict(std::vector<std::pair<std::string, std::shared_ptr<nn::Module>>>{
      {"norm", nn::BatchNorm1d(3).ptr()}, {"again", Typed().ptr()}});
  expect_refused(*dict, {"cannot replace norm, again.bn:"});
  nn::Sequential own(Nested(OwnNorm(4)), nn::BatchNorm2d(4));
  expect_refused(*own, {"0.0", "derived from BatchNorm"});
  nn::BatchNorm2d bare(4);
  expect_refused(*bare, {"lone", "BatchNorm2d", "in its place"});
  nn::Sequential holds_it(bare, nn::ReLU());
  expect_refused(*holds_it, {"cannot replace 0:", "outside the model holds"});
  bare = nullptr;
  expect_refused(*holds_it, {"communicator", "null"}, nullptr);
  convert_sync_batchnorm(*holds_it, world());
}

TEST(RevertSyncBatchNorm, RefusesByItsPathWhatItCannotReplace) {
  struct HolderImpl : nn::Module {
    HolderImpl() { register_module("bn", SyncBatchNorm(nn::BatchNormOptions(4), world())); }
  };
  HolderImpl holder;
  EXPECT_THROW(revert_sync_batchnorm(holder), Error);
  SyncBatchNorm bare(nn::BatchNormOptions(4), world());
  EXPECT_THROW(revert_sync_batchnorm(*bare), Error);
}

}  // namespace
}  // namespace syncbn
