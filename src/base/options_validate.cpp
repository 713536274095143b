#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "base/options.hpp"
#include "base/options_text.hpp"

namespace syncbn {
namespace {

// Far above any use, and small enough that products of two fit in 64 bits.
constexpr int64_t kMaxBatch = int64_t{1} << 30;
constexpr int64_t kMaxSteps = int64_t{1} << 40;
constexpr int64_t kMaxEpochs = int64_t{1} << 20;
constexpr int64_t kMaxSeconds = int64_t{1} << 30;
constexpr int64_t kMaxShards = int64_t{1} << 12;
constexpr size_t kMaxLayers = 64;
constexpr int64_t kMaxWeights = int64_t{1} << 30;

// A value's check: throws the error that names the key, what is expected and what was found.
class Checker {
 public:
  explicit Checker(const Options& options) : options_(options) {}

  void holds(bool ok, const std::string& key, const std::string& expected,
             const std::string& hint = "", const std::vector<std::string>& others = {}) const {
    if (ok) return;
    throw option_error(
        options_, key,
        concat("expected ", expected, ", found ", quoted(get_option(options_, key)), hint), others);
  }

  void whole(const std::string& key, int64_t value, int64_t smallest, int64_t largest) const {
    holds(value >= smallest && value <= largest, key,
          concat("a whole number from ", smallest, " to ", largest));
  }

  void number(const std::string& key, double value, bool in_range,
              const std::string& expected) const {
    holds(std::isfinite(value) && in_range, key, expected);
  }

  // A number above 0, or 0, that the run's type holds as such: float32 makes 1e39 infinite, and
  // 1e-50 nothing.
  void fits(const std::string& key, double value) const {
    using Float = std::numeric_limits<float>;
    if (options_.run.dtype != "float32") return;
    const bool vanishes = value > 0 && value < static_cast<double>(Float::denorm_min());
    holds(value <= static_cast<double>(Float::max()) && !vanishes, key,
          concat("a number that float32 holds, from ", write_value(double{Float::denorm_min()}),
                 " to ", write_value(double{Float::max()})),
          "; run.dtype = float64 holds more");
  }

  void word(const std::string& key, const std::string& value, const std::vector<std::string>& words,
            const std::string& hint = "") const {
    if (std::find(words.begin(), words.end(), value) != words.end()) return;
    std::string list;
    for (const std::string& word : words) list += (list.empty() ? "" : " | ") + word;
    throw option_error(options_, key,
                       concat("expected ", list, ", ", found_text(value),
                              hint.empty() ? did_you_mean(value, words) : hint));
  }

  // A text must come back unchanged from the config.ini that is saved with the run.
  void path(const std::string& key, const std::string& value) const {
    holds(value.empty() || is_storable_path(value), key,
          "a path without control characters, '#' (it starts a comment in a configuration file) "
          "and spaces at either end");
  }

  // The sizes, checked.
  std::vector<int64_t> sizes(const std::string& key, const std::string& text) const {
    const auto sizes = read_sizes(text);
    holds(sizes.has_value(), key, kSizesExpected);
    return *sizes;
  }

 private:
  const Options& options_;
};

void check_data(const Checker& check, const DataOptions& data) {
  check.word("data.name", data.name, {"mnist", "fashion-mnist", "synthetic", "idx"});
  check.path("data.dir", data.dir);
  check.holds(data.name != "idx" || !data.dir.empty(), "data.dir",
              "the folder of the four files, which data.name = idx needs", "", {"data.name"});
  check.whole("data.classes", data.classes, 0, kMostClasses);
  check.holds(data.classes != 1, "data.classes", "at least 2 classes, or 0");
  check.whole("data.label_offset", data.label_offset, 0, kMostClasses);
  check.whole("data.limit", data.limit, 0, kMaxBatch);
  check.word("data.scale", data.scale, {"unit", "half", "standard", "binary"});
  check.word("data.augment", data.augment, {"none", "crop", "crop-flip"});
  check.holds(data.validation == "test" || validation_fraction(data), "data.validation",
              "test, or a fraction above 0 and below 1");
}

int64_t weights_of(const ModelOptions& model, int64_t inputs, int64_t classes) {
  int64_t weights = 0, from = inputs;
  for (const int64_t size : parse_sizes("model.hidden", model.hidden)) {
    weights += from * size;
    from = size;
  }
  return weights + from * classes;
}

void check_model(const Checker& check, const ModelOptions& model) {
  check.holds(check.sizes("model.hidden", model.hidden).size() <= kMaxLayers, "model.hidden",
              concat("at most ", kMaxLayers, " layers"));
  check.holds(weights_of(model, 1, 1) <= kMaxWeights, "model.hidden",
              concat("at most ", kMaxWeights, " weights"));  // more with the data's inputs
  check.word("model.activation", model.activation, {"relu", "sigmoid", "tanh"});
  check.word("model.init", model.init, {"torch", "he", "glorot", "normal"});
  check.number("model.init_std", model.init_std, model.init_std > 0, "a number above 0");
  check.fits("model.init_std", model.init_std);
  check.path("model.weights", model.weights);
  check.number("model.dropout", model.dropout, model.dropout >= 0 && model.dropout < 1,
               "a probability from 0 to below 1");
}

void check_norm(const Checker& check, const NormOptions& norm) {
  check.word("norm.kind", norm.kind, {"none", "batch", "layer"},
             "; sync BN is norm.kind = batch with norm.batch = global (local BN: local, ghost BN: "
             "a number)");
  const bool is_word = norm.batch == "global" || norm.batch == "local";
  check.holds(is_word || norm_batch_number(norm).value_or(0) >= 2, "norm.batch",
              "global, local or a number of samples of at least 2",
              did_you_mean(norm.batch, {"global", "local"}));
  check.word("norm.position", norm.position, {"pre", "post"});
  check.word("norm.eval", norm.eval, {"running", "recomputed", "batch"});
  check.number("norm.momentum", norm.momentum, norm.momentum > 0 && norm.momentum <= 1,
               "a number above 0, at most 1");
  check.word("norm.running_variance", norm.running_variance, {"unbiased", "biased"});
  check.fits("norm.momentum", norm.momentum);
  check.number("norm.eps", norm.eps, norm.eps > 0, "a number above 0");
  check.fits("norm.eps", norm.eps);
}

void check_optimizer(const Checker& check, const TrainOptions& train) {
  check.word("train.optimizer", train.optimizer, {"sgd", "adam", "adamw"});
  check.number("train.momentum", train.momentum, train.momentum >= 0 && train.momentum < 1,
               "a number from 0 to below 1");
  check.holds(!train.nesterov || train.optimizer != "sgd" || train.momentum > 0, "train.nesterov",
              "false while train.momentum is 0", "", {"train.momentum", "train.optimizer"});
  check.number("train.beta1", train.beta1, train.beta1 >= 0 && train.beta1 < 1,
               "a number from 0 to below 1");
  check.number("train.beta2", train.beta2, train.beta2 >= 0 && train.beta2 < 1,
               "a number from 0 to below 1");
  check.number("train.adam_eps", train.adam_eps, train.adam_eps > 0, "a number above 0");
  check.fits("train.adam_eps", train.adam_eps);
  check.number("train.weight_decay", train.weight_decay, train.weight_decay >= 0,
               "a number of at least 0");
  check.fits("train.weight_decay", train.weight_decay);
  check.word("train.decay", train.decay, {"all", "weights"});
  check.number("train.clip", train.clip, train.clip >= 0, "a number of at least 0");
}

void check_rate(const Checker& check, const TrainOptions& train) {
  check.number("train.lr", train.lr, train.lr > 0, "a number above 0");
  check.fits("train.lr", train.lr);
  check.word("train.lr_rule", train.lr_rule, {"none", "linear", "sqrt"});
  check.whole("train.lr_reference", train.lr_reference, 1, kMaxBatch);
  check.whole("train.warmup_steps", train.warmup_steps, 0, kMaxSteps);
  check.word("train.schedule", train.schedule, {"constant", "step", "cosine"});
  const auto milestones = check.sizes("train.milestones", train.milestones);
  const bool increasing = std::adjacent_find(milestones.begin(), milestones.end(),
                                             std::greater_equal<>()) == milestones.end();
  check.holds(increasing, "train.milestones", "epochs in increasing order");
  check.holds(train.schedule != "step" || !milestones.empty(), "train.milestones",
              "at least one epoch, since train.schedule is step", "", {"train.schedule"});
  check.number("train.gamma", train.gamma, train.gamma > 0, "a number above 0");
}

void check_seed(const Checker& check, const SeedOptions& seed) {
  constexpr int64_t kLargest = std::numeric_limits<int64_t>::max();
  check.whole("seed.init", seed.init, -1, kLargest);
  check.whole("seed.order", seed.order, -1, kLargest);
  check.whole("seed.noise", seed.noise, -1, kLargest);
  check.whole("seed.split", seed.split, -1, kLargest);
  check.whole("seed.grouping", seed.grouping, -1, kLargest);
}

void check_run(const Checker& check, const RunOptions& run) {
  check.whole("run.seed", run.seed, 0, std::numeric_limits<int64_t>::max());
  check.path("run.out", run.out);
  check.word("run.device", run.device, {"auto", "cpu", "cuda"});
  check.word("run.backend", run.backend, {"auto", "mpi", "nccl"});
  check.word("run.dtype", run.dtype, {"float32", "float64"});
  check.word("run.reduce", run.reduce, {"canonical", "fast"});
  check.whole("run.shards", run.shards, 1, kMaxShards);
  check.whole("run.threads", run.threads, 0, 4096);
  check.whole("run.checkpoint_steps", run.checkpoint_steps, 0, kMaxSteps);
  check.number("run.checkpoint_minutes", run.checkpoint_minutes,
               run.checkpoint_minutes >= 0 && run.checkpoint_minutes <= kMaxSeconds,
               concat("minutes from 0 to ", kMaxSeconds));
  check.whole("run.keep_checkpoints", run.keep_checkpoints, 1, 1000);
  check.word("run.check", run.check, {"light", "full"});
  check.whole("run.check_steps", run.check_steps, 0, kMaxSteps);
  check.number("run.timeout", run.timeout, run.timeout >= 0 && run.timeout <= kMaxSeconds,
               concat("seconds from 0 to ", kMaxSeconds));
}

// The divisor of `batch` next to `samples`, of at least 2: the M that would do. batch ≥ 2.
int64_t nearest_divisor(int64_t batch, int64_t samples) {
  for (int64_t step = 0;; ++step) {
    const int64_t below = std::min(samples, batch) - step;
    if (below >= 2 && batch % below == 0) return below;
    if (samples + step <= batch && batch % (samples + step) == 0) return samples + step;
  }
}

}  // namespace

void validate(const Options& options) {
  const Checker check(options);
  check_data(check, options.data);
  check_model(check, options.model);
  check_norm(check, options.norm);
  check.whole("train.batch", options.train.batch, 1, kMaxBatch);
  check.whole("train.batch_per_rank", options.train.batch_per_rank, 0, kMaxBatch);
  check.holds(options.train.batch_per_rank == 0 || options.set_keys.count("train.batch") == 0,
              "train.batch_per_rank", "0 or no value, since train.batch is given too");
  check.whole("train.epochs", options.train.epochs, 1, kMaxEpochs);
  check.whole("train.max_steps", options.train.max_steps, -1, kMaxSteps);
  check_optimizer(check, options.train);
  check_rate(check, options.train);
  check_seed(check, options.seed);
  check_run(check, options.run);
}

bool is_storable_path(const std::string& path) {
  const bool control =
      std::any_of(path.begin(), path.end(), [](unsigned char c) { return c < ' ' || c == 127; });
  return !path.empty() && !control && path.find('#') == std::string::npos && trim(path) == path;
}

void validate_for_data(const Options& options, int64_t inputs, int64_t classes) {
  Checker(options).holds(weights_of(options.model, inputs, classes) <= kMaxWeights, "model.hidden",
                         concat("at most ", kMaxWeights, " weights with the ", inputs,
                                " inputs and ", classes, " classes of ", options.data.name));
}

std::string batch_key(const TrainOptions& options) {
  return options.batch_per_rank > 0 ? "train.batch_per_rank" : "train.batch";
}

void validate_for_ranks(const Options& options, int ranks) {
  const Checker check(options);
  const int64_t batch = global_batch(options.train, ranks);
  const bool per_rank = options.train.batch_per_rank > 0;
  const std::string key = batch_key(options.train);
  const std::string times = per_rank ? concat(" (times ", ranks, " ranks)") : "";
  check.holds(batch >= 1 && batch <= kMaxBatch, key, concat("a global batch from 1 to ", kMaxBatch),
              times);
  const double largest = options.run.dtype == "float32"
                             ? static_cast<double>(std::numeric_limits<float>::max())
                             : std::numeric_limits<double>::max();
  check.holds(scaled_rate(options.train, batch) <= largest, "train.lr",
              concat("a rate that train.lr_rule = ", options.train.lr_rule, " leaves finite in ",
                     options.run.dtype, " at a batch of ", batch),
              "", {"train.lr_rule", "train.lr_reference", key});
  check.holds(
      !options.run.keep_best || options.data.validation != "test", "run.keep_best",
      "false while data.validation is test",
      ": a model chosen by the test set has no score left that measures it; hold out a part "
      "of the training set, as with --data.validation 0.1",
      {"data.validation"});
  const bool canonical = options.run.reduce == "canonical";
  check.holds(!canonical || ranks <= options.run.shards, "run.shards",
              concat("at least one shard for each of the ", ranks, " ranks"),
              "; it is a part of the result: give the same number wherever results shall be equal, "
              "or run with --run.reduce fast");
  if (options.norm.kind != "batch") return;

  const auto samples = norm_batch_number(options.norm);
  const int64_t shards = make_sharding(options.run, 0, ranks).shards;
  const int64_t smallest = options.norm.batch == "local" ? 2 * shards : 2;
  check.holds(batch >= smallest, key,
              concat("a global batch of at least ", smallest, ", as norm.kind = batch needs 2 ",
                     "samples behind each mean and variance (norm.batch = ", options.norm.batch,
                     options.norm.batch == "local"
                         ? concat(", ", shards, canonical ? " shards)" : " ranks)")
                         : ")"),
              times, {"norm.kind", "norm.batch", "run.shards", "run.reduce"});
  if (!samples || (*samples <= batch && batch % *samples == 0)) return;
  throw option_error(
      options, "norm.batch",
      concat("expected a number that divides the global batch of ", batch, " (", key, "), found ",
             *samples, "; the nearest that does is ", nearest_divisor(batch, *samples)),
      {key});
}

}  // namespace syncbn
