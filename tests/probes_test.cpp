// Probes against the same numbers by LibTorch and autograd from a state dict; on any number of
// ranks; and what they leave behind.
#include "study/probes.hpp"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "base/random.hpp"
#include "support/close.hpp"
#include "support/reference.hpp"
#include "support/training.hpp"

namespace syncbn {
namespace {

constexpr double kRounding = 1e-9;

at::Tensor inputs_of(const Split& split, const std::vector<int64_t>& samples) {
  std::vector<int64_t> rows;
  for (const int64_t sample : samples) rows.push_back(split.rows[static_cast<size_t>(sample)]);
  return split.images.index_select(0, torch::tensor(rows)).to(torch::kDouble) / 255;
}
at::Tensor labels_of(const Split& split, const std::vector<int64_t>& samples) {
  std::vector<int64_t> rows;
  for (const int64_t sample : samples) rows.push_back(split.rows[static_cast<size_t>(sample)]);
  return split.labels.index_select(0, torch::tensor(rows));
}
std::vector<int64_t> first_samples(int64_t n) {
  std::vector<int64_t> samples(static_cast<size_t>(n));
  std::iota(samples.begin(), samples.end(), int64_t{0});
  return samples;
}

/// As the probes draw: what is 1 for the noise law, 2 the scale, 3 groups, 4 a batch.
std::vector<int64_t> drawn(uint64_t what, int64_t n, int64_t index = 0) {
  const auto stream = (what << 56) + static_cast<uint64_t>(index);
  return RandomStream(1, Stream::kProbe, stream).permutation(n);
}
std::vector<int64_t> batch_of_gradients(const Trainer& trainer) {
  std::vector<int64_t> batch = drawn(4, trainer.data().train.size());
  batch.resize(static_cast<size_t>(trainer.batch()));
  return batch;
}

std::map<std::string, at::Tensor> state_of(Trainer& trainer) {
  const State state = copy_of(trainer);
  return {state.begin(), state.end()};
}

/// A row's numbers by column, so that rows of any kind can be compared.
template <class Row>
std::map<std::string, double> numbers_of(const Row& row) {
  std::map<std::string, double> numbers;
  for_each_column(row, [&](const char* column, const auto& value) {
    if constexpr (std::is_arithmetic_v<std::decay_t<decltype(value)>>) {
      numbers[column] = static_cast<double>(value);
    }
  });
  return numbers;
}

template <class Row>
void expect_same_bits(const std::vector<Row>& actual, const std::vector<Row>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    const auto other = numbers_of(expected[i]);
    for (const auto& [column, value] : numbers_of(actual[i])) {
      const double same = other.at(column);
      EXPECT_TRUE(value == same || (std::isnan(value) && std::isnan(same)))
          << column << " of row " << i << ": " << value << ", expected " << same;
    }
  }
}

/// What all probes find.
struct Findings {
  explicit Findings(Trainer& trainer)
      : layers(probe_layers(trainer, 200)),
        law(probe_noise_law(trainer, 200, {2, 8}, 5)),
        scale{probe_noise_scale(trainer, 4)},
        units(probe_units(trainer, 5, 200)) {}
  std::vector<LayerRow> layers;
  std::vector<NoiseLawRow> law;
  std::vector<NoiseScaleRow> scale;
  std::vector<UnitRow> units;
};

class Probes : public testing::TestWithParam<Settings> {};

TEST_P(Probes, RanksChangeNoBit) {
  const Job job = job_with(GetParam());
  Trainer together = job.trainer(), alone = job.alone();
  train(together, 1);
  const Findings found(together);
  if (!on_last_rank()) return;
  train(alone, 1);
  const Findings expected(alone);
  expect_same_bits(found.layers, expected.layers);
  expect_same_bits(found.law, expected.law);
  expect_same_bits(found.scale, expected.scale);
  expect_same_bits(found.units, expected.units);
}

/// state(), copied.
NamedTensors whole_state(Trainer& trainer) {
  NamedTensors state = trainer.state();
  for (auto& [name, value] : state) value = value.cpu().clone();
  return state;
}

TEST_P(Probes, LeaveTheTrainerAsItWas) {
  const Job job = job_with(GetParam());
  Trainer probed = job.trainer(), left = job.trainer();
  for (Trainer* trainer : {&probed, &left}) {
    trainer->after_step([trainer](bool) { return trainer->step() != 4; });
    EXPECT_FALSE(trainer->train_epoch(0));  // stops in the middle of an epoch
  }
  const NamedTensors before = whole_state(probed);
  Findings{probed};
  EXPECT_EQ(probed.step(), 4);
  expect_equal(whole_state(probed), before, 0);
  for (Trainer* trainer : {&probed, &left}) {
    trainer->after_step({});
    trainer->train_epoch(0);
    trainer->train_epoch(1);
  }
  expect_equal(whole_state(probed), whole_state(left), 0);
}

INSTANTIATE_TEST_SUITE_P(
    , Probes,
    testing::Values(
        Settings{{"norm.batch", "8"}, {"run.dtype", "float32"}, {"model.dropout", "0.3"}},
        Settings{{"norm.batch", "local"}, {"train.batch", "64"}, {"model.activation", "sigmoid"}},
        Settings{{"norm.position", "post"}, {"norm.output", "true"}, {"norm.cumulative", "true"}},
        Settings{{"norm.kind", "layer"}, {"train.optimizer", "adam"}},
        Settings{{"norm.kind", "none"}, {"model.hidden", ""}}));

/// The first norm layer of 784-12-BN-ReLU-9-BN-ReLU-10 by plain tensor operations.
struct ByHand {
  ByHand(Trainer& trainer, const Split& split, int64_t m) : state(state_of(trainer)), m_(m) {
    const auto batch = batch_of_gradients(trainer);
    received = torch::linear(inputs_of(split, batch), at("0.weight"), at("0.bias"));
    received.set_requires_grad(true);
    normalised = normalise(received, "1");
    normalised.retain_grad();
    at::Tensor x = torch::linear(torch::relu(normalised), at("3.weight"), at("3.bias"));
    x = torch::linear(torch::relu(normalise(x, "4")), at("6.weight"), at("6.bias"));
    torch::nn::functional::cross_entropy(x, labels_of(split, batch)).backward();
  }
  at::Tensor at(const std::string& name) const { return state.at(name); }
  at::Tensor normalise(const at::Tensor& x, const std::string& layer) const {
    std::vector<at::Tensor> groups;
    for (const at::Tensor& rows : x.split(m_)) {
      const at::Tensor centred = rows - rows.mean(0);
      groups.push_back(centred / (rows.var(0, false) + 1e-5).sqrt() * at(layer + ".weight") +
                       at(layer + ".bias"));
    }
    return torch::cat(groups);
  }

  std::map<std::string, at::Tensor> state;
  at::Tensor received, normalised;

 private:
  int64_t m_;
};

double mean_of(const at::Tensor& t) {
  return t.mean().item<double>();
}

TEST(ProbeLayers, IsTheRecountOfANormLayer) {
  constexpr int64_t kM = 8, kPopulation = 200;
  const Job job =
      job_with({{"norm.batch", "8"}, {"train.batch", "64"}, {"train.drop_last", "true"}});
  Trainer trainer = job.trainer();
  train(trainer, 1);
  const ByHand hand(trainer, job.data->train, kM);
  const LayerRow row = probe_layers(trainer, kPopulation).at(1);
  EXPECT_EQ(row.name + row.type, "1BatchNorm1d");
  EXPECT_EQ(row.step, trainer.step());
  EXPECT_EQ(row.m, kM);

  const at::Tensor x = torch::linear(inputs_of(job.data->train, drawn(3, kPopulation)),
                                     hand.at("0.weight"), hand.at("0.bias"));
  const at::Tensor mean = x.mean(0), variance = x.var(0, false), groups = x.view({25, kM, 12});
  EXPECT_NEAR(row.mean_noise, mean_of((groups.mean(1) - mean).square() / variance), kRounding);
  EXPECT_NEAR(row.variance_noise,
              mean_of((groups.var(1, true) - x.var(0, true)).square() / variance.square()),
              kRounding);
  EXPECT_NEAR(row.mean_noise_theory, (1.0 / kM) * (kPopulation - kM) / (kPopulation - 1),
              kRounding);
  EXPECT_NEAR(row.shard_noise,  // 64 samples in 16 shards
              mean_of((x.view({50, 4, 12}).mean(1) - mean).square() / variance), kRounding);
  EXPECT_NEAR(
      row.shard_variance_noise,
      mean_of((x.view({50, 4, 12}).var(1, true) - x.var(0, true)).square() / variance.square()),
      kRounding);
  EXPECT_EQ(row.initial_weight, std::pow(0.9, static_cast<double>(trainer.step())));
  EXPECT_NEAR(row.kurtosis, mean_of((x - mean).pow(4).mean(0) / variance.square()), kRounding);
  EXPECT_NEAR(row.running_mean_gap,
              mean_of((hand.at("1.running_mean") - mean).abs() / variance.sqrt()), kRounding);
  EXPECT_NEAR(row.running_variance_gap, mean_of((hand.at("1.running_var") / variance).log()),
              kRounding);

  const at::Tensor dx = hand.received.grad().view({8, kM, 12});
  const at::Tensor dy = hand.normalised.grad().view({8, kM, 12});
  const at::Tensor gain =
      dx.square().sum(1) * variance / (hand.at("1.weight").square() * dy.square().sum(1));
  EXPECT_NEAR(row.gain_median, at::quantile(gain, 0.5).item<double>(), kRounding);
  EXPECT_NEAR(row.gain_p99, at::quantile(gain, 0.99).item<double>(), kRounding);
  const at::Tensor norms = dx.square().sum({1, 2}).sqrt();
  EXPECT_NEAR(row.group_gradient_median, at::quantile(norms, 0.5).item<double>(), kRounding);
  EXPECT_NEAR(row.group_gradient_p99, at::quantile(norms, 0.99).item<double>(), kRounding);
}

TEST(ProbeLayers, SaysWhatALinearLayersRateAmountsTo) {
  const Job job = job_with({{"norm.batch", "8"}});
  Trainer trainer = job.trainer();
  train(trainer, 1);
  const auto batch = batch_of_gradients(trainer);
  test::Reference reference(trainer.network(), trainer.replica().state_dict(), job.options.norm);
  reference.backward(inputs_of(job.data->train, batch), labels_of(job.data->train, batch), 8);
  const auto rows = probe_layers(trainer, 100);
  ASSERT_EQ(rows.size(), 5u);
  for (const LayerRow& row : rows) {
    const at::Tensor weight = reference.at(row.name + ".weight");
    EXPECT_NEAR(row.weight_norm, weight.norm().item<double>(), kRounding);
    EXPECT_NEAR(row.gradient_norm, weight.grad().norm().item<double>(), kRounding);
    if (row.type == "Linear") {
      EXPECT_NEAR(row.effective_lr, 0.1 / weight.square().sum().item<double>(), kRounding);
      EXPECT_TRUE(std::isnan(row.m) && std::isnan(row.dead) && std::isnan(row.gain_median));
    }
  }
}

TEST(ProbeLayers, CountsDeadUnits) {
  for (const char* position : {"pre", "post"}) {
    const Job job = job_with({{"norm.position", position}, {"norm.output", "true"}});
    Trainer trainer = job.trainer();
    for (auto& [name, value] : trainer.replica().state_dict()) {  // 3 of 12 units never fire
      const std::string bias = position == std::string("pre") ? "1.bias" : "0.bias";
      if (name == bias) value.fill_(10).narrow(0, 4, 3).fill_(-10);
    }
    const auto rows = probe_layers(trainer, 100);
    EXPECT_EQ(rows.at(1).dead, 0.25) << position;
    EXPECT_LT(rows.at(3).dead, 1) << position;
    EXPECT_TRUE(std::isnan(rows.back().dead)) << "the output's norm has no activation";
  }
}

// S6 on a small net: slope −1 of the mean's noise, and both as the theory has them.
TEST(ProbeNoiseLaw, IsTheTheorys) {
  const Job job = job_with({{"data.limit", "0"}, {"model.hidden", "48,32"}});
  Trainer trainer = job.trainer();
  train(trainer, 1);
  const std::vector<int64_t> ms = {2, 4, 8, 16, 32, 64};
  const auto rows = probe_noise_law(trainer, 2000, ms);
  ASSERT_EQ(rows.size(), 2 * ms.size());
  for (const size_t layer : {0, 1}) {
    std::vector<double> x, y;
    for (size_t i = 0; i < ms.size(); ++i) {
      const NoiseLawRow& row = rows[layer * ms.size() + i];
      EXPECT_EQ(row.m, ms[i]);
      EXPECT_NEAR(row.mean_noise / row.mean_noise_theory, 1, 0.1) << row.m;
      EXPECT_NEAR(row.variance_noise / row.variance_noise_theory, 1, 0.1) << row.m;
      x.push_back(std::log(static_cast<double>(row.m)));
      y.push_back(std::log(row.mean_noise));
    }
    const at::Tensor lx = at::tensor(x), ly = at::tensor(y), dx = lx - lx.mean();
    EXPECT_NEAR((dx * ly).sum().item<double>() / dx.square().sum().item<double>(), -1, 0.05);
  }
  const auto beyond = probe_noise_law(trainer, 50, {64}, 3);
  EXPECT_TRUE(std::isnan(beyond.at(0).mean_noise) && std::isnan(beyond.at(0).mean_noise_theory));
}

// Gradients of the same batches by autograd.
TEST(ProbeNoiseScale, IsThatOfTheBatchesGradients) {
  for (const Settings& settings :
       {Settings{{"norm.batch", "8"}, {"model.dropout", "0.3"}}, Settings{{"norm.kind", "none"}}}) {
    const Job job = job_with(settings);
    Trainer trainer = job.trainer();
    train(trainer, 1);
    const NoiseScaleRow row = probe_noise_scale(trainer, 4);
    EXPECT_EQ(row.small_batch, 32);
    EXPECT_EQ(row.big_batch, 128);
    const auto order = drawn(2, 301, trainer.step());
    std::vector<at::Tensor> gradients;
    for (int64_t k = 0; k < 4; ++k) {
      test::Reference reference(trainer.network(), trainer.replica().state_dict(),
                                job.options.norm);
      const std::vector<int64_t> batch(order.begin() + 32 * k, order.begin() + 32 * (k + 1));
      reference.backward(inputs_of(job.data->train, batch), labels_of(job.data->train, batch), 8);
      std::vector<at::Tensor> flat;
      for (const auto& parameter : reference.parameters())
        flat.push_back(parameter.grad().flatten());
      gradients.push_back(at::cat(flat));
    }
    const at::Tensor all = at::stack(gradients);
    const double small = all.square().sum(1).mean().item<double>();
    const double big = all.mean(0).square().sum().item<double>();
    EXPECT_NEAR(row.small_norm2 / small, 1, kRounding);
    EXPECT_NEAR(row.big_norm2 / big, 1, kRounding);
    EXPECT_NEAR((row.gradient_norm2 + row.noise / 32) / small, 1, kRounding);
    EXPECT_NEAR((row.gradient_norm2 + row.noise / 128) / big, 1, kRounding);
    EXPECT_EQ(probe_noise_scale(trainer, 100).big_batch, 9 * 32) << "all there are";
    EXPECT_TRUE(std::isnan(probe_noise_scale(trainer, 1).noise));
  }
}

TEST(ProbeUnits, AreQuantilesOfTheActivationsInput) {
  const std::vector<int64_t> samples = first_samples(150);
  for (const auto& [kind, position, activation] : {std::tuple{"none", "pre", "sigmoid"},
                                                   {"batch", "pre", "relu"},
                                                   {"batch", "pre", "sigmoid"},
                                                   {"batch", "post", "tanh"},
                                                   {"layer", "pre", "tanh"}}) {
    SCOPED_TRACE(concat(kind, ' ', position, ' ', activation));
    const Job job = job_with({{"norm.kind", kind},
                              {"norm.position", position},
                              {"model.activation", activation},
                              {"model.hidden", "12"}});
    Trainer trainer = job.trainer();
    train(trainer, 1);
    const auto state = state_of(trainer);
    at::Tensor x = torch::linear(inputs_of(job.data->train, samples), state.at("0.weight"),
                                 state.at("0.bias"));
    if (kind == std::string("batch") && position == std::string("pre")) {
      x = at::batch_norm(x, state.at("1.weight"), state.at("1.bias"), state.at("1.running_mean"),
                         state.at("1.running_var"), false, 0, 1e-5, false);
    } else if (kind == std::string("layer")) {
      x = at::layer_norm(x, {12}, state.at("1.weight"), state.at("1.bias"), 1e-5);
    }
    const auto rows = probe_units(trainer, 4, 150);
    ASSERT_EQ(rows.size(), 4u);
    for (const UnitRow& row : rows) {
      const at::Tensor unit = x.select(1, row.unit);
      EXPECT_NEAR(row.p15, at::quantile(unit, 0.15).item<double>(), kRounding);
      EXPECT_NEAR(row.p50, at::quantile(unit, 0.5).item<double>(), kRounding);
      EXPECT_NEAR(row.p85, at::quantile(unit, 0.85).item<double>(), kRounding);
    }
    EXPECT_EQ(probe_units(trainer, 100, 150).size(), 12u);
  }
}

}  // namespace
}  // namespace syncbn
