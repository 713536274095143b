#include "study/trial.hpp"

#include <ATen/ATen.h>

#include <array>
#include <cmath>
#include <optional>

#include "base/clock.hpp"
#include "base/csv.hpp"
#include "comm/stop.hpp"
#include "study/probes.hpp"
#include "train/measurements.hpp"

namespace syncbn {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kDivergedLoss = 3;  // times the first step's loss
constexpr int64_t kPlateauEpochs = 10;
constexpr double kPlateauGain = 1e-4;  // relative

constexpr std::array<const char*, 3> kSplits = {"train", "val", "test"};
constexpr std::array<const char*, 3> kStatistics = {"running", "recomputed", "batch"};
enum SplitIndex : size_t { kTrain, kVal, kTest };
enum StatisticsIndex : size_t { kOfRunning, kOfRecomputed, kOfBatch };

// One evaluation; NaN: not measured.
struct Measurement {
  int64_t step = 0;
  double epoch = 0;
  int64_t samples = 0;
  double seconds = 0, lr = NAN, met_loss = NAN;
  std::array<std::array<double, 3>, 3> loss, accuracy;  // [split][statistics]

  Measurement() {
    for (auto& of_split : loss) of_split.fill(NAN);
    accuracy = loss;
  }
};

template <class F>
void for_each_column(const Measurement& row, F&& f) {
  f("step", row.step);
  f("epoch", row.epoch);
  f("samples", row.samples);
  f("seconds", row.seconds);
  f("lr", row.lr);
  f("met_loss", row.met_loss);
  for (size_t split = 0; split < 3; ++split) {
    for (size_t of = 0; of < 3; ++of) {
      const std::string name = concat(kSplits[split], "_", kStatistics[of], "_");
      f((name + "loss").c_str(), row.loss[split][of]);
      f((name + "accuracy").c_str(), row.accuracy[split][of]);
    }
  }
}

class Course {
 public:
  Course(const Lane& lane, const Options& options, const StudyOptions& study, Stage stage,
         const Dataset& data, const Trainer::OnProgress& on_progress)
      : lane_(lane),
        study_(study),
        tunes_(stage == Stage::kTune),
        targets_(parse_numbers("measure.targets", study.targets)),
        data_(data),
        trainer_(lane.comm, options, data, lane.device, lane.look_every),
        every_(evaluation_steps(study, trainer_.steps_per_epoch())) {
    trainer_.on_progress(on_progress);
    trainer_.after_step([this](bool looked) { return after_step(looked); });
  }

  TrialResult run() {
    try {
      train();
    } catch (const DivergedError& error) {  // on every rank of the lane alike
      diverge(error.what());
    }
    TrialResult result;
    result.finished = stopped_ != "request";
    if (!result.finished) return result;
    result.metadata = metadata();
    result.tables.emplace_back("measurements.csv", to_csv(rows_));
    add(result, "layers.csv", layers_);
    add(result, "noise_law.csv", noise_law_);
    add(result, "noise_scale.csv", noise_scale_);
    add(result, "units.csv", units_);
    return result;
  }

 private:
  template <class Row>
  static void add(TrialResult& result, const char* name, const std::vector<Row>& rows) {
    if (!rows.empty()) result.tables.emplace_back(name, to_csv(rows));
  }

  void train() {
    if (study_.first && !tunes_) evaluate(/*last=*/false, /*full=*/true);
    int64_t evaluations = 0;
    while (stopped_.empty()) {
      train_to_evaluation();
      if (stopped_ == "request") return;
      const int64_t n = ++evaluations;
      evaluate(trainer_.step() == trainer_.steps_in_all(),
               study_.full_every > 0 && n % study_.full_every == 0);
    }
  }

  void train_to_evaluation() {
    if (trainer_.step() == trainer_.steps_in_all()) return;
    const int64_t first = trainer_.step();
    const auto start = Clock::now();
    do {
      const auto trained = trainer_.train_epoch(trainer_.step() / trainer_.steps_per_epoch());
      if (trained) watch_plateau(trained->loss());
    } while (stopped_.empty() && !is_due() && trainer_.step() < trainer_.steps_in_all());
    trainer_.check_loss();
    keep_losses(first);
    seconds_ += seconds_since(start);
    if (peak_bytes_ == 0) peak_bytes_ = memory_.peak();
  }

  bool is_due() const { return trainer_.step() % every_ == 0; }

  // False: train no further for now.
  bool after_step(bool looked) {
    Replica& replica = trainer_.replica();
    if (looked && replica.requested(Request::kStop)) stopped_ = "request";
    if (stop_requested()) replica.request(Request::kStop);
    const bool ends_epoch = trainer_.step() % trainer_.steps_per_epoch() == 0;
    return stopped_.empty() && (ends_epoch || !is_due());
  }

  // The losses of the batches since step `first`, at whose end the device is waited for anyway.
  void keep_losses(int64_t first) {
    const Trainer::Met met = trainer_.take_met();
    const auto samples = static_cast<double>(samples_at(trainer_.step()) - samples_at(first));
    met_loss_ = met.loss_sum / samples;
    first_loss_ = met.first_loss / static_cast<double>(samples_at(1));
  }

  void watch_plateau(double epoch_loss) {
    if (epoch_loss < best_epoch_loss_ * (1 - kPlateauGain)) {
      best_epoch_loss_ = epoch_loss;
      epochs_without_gain_ = 0;
    } else {
      ++epochs_without_gain_;
    }
  }

  void evaluate(bool last, bool full) {
    const auto start = Clock::now();
    Measurement row;
    row.step = trainer_.step();
    row.epoch = static_cast<double>(row.step) / static_cast<double>(trainer_.steps_per_epoch());
    row.samples = samples_at(row.step);
    row.seconds = seconds_;
    if (row.step > 0) row.lr = trainer_.learning_rate(row.step - 1);
    row.met_loss = met_loss_;
    score(row, kVal, kOfRunning, Statistics::kRunning);
    rows_.push_back(row);
    if (!std::isfinite(row.loss[kVal][kOfRunning]) && is_lost()) {
      diverge(concat("the validation loss is ", row.loss[kVal][kOfRunning], " at step ", row.step));
      return;
    }
    if (row.epoch >= 1 && row.met_loss > kDivergedLoss * first_loss_) {
      diverge(concat("the training loss is ", row.met_loss, " at step ", row.step, ", above ",
                     kDivergedLoss, " times the first step's ", first_loss_));
      return;
    }
    decide_to_stop(last);
    full = !tunes_ && (full || !stopped_.empty());
    if (full) score_all(rows_.back());
    evaluation_seconds_ += seconds_since(start);
    if (full) probe();
  }

  // Whether the network itself has no finite loss, and not just its running statistics fail it.
  bool is_lost() {
    return trainer_.network().batch_norms().empty() ||
           !std::isfinite(trainer_.score(data_.validation, Statistics::kBatch).loss_sum);
  }

  void score(Measurement& row, SplitIndex split, StatisticsIndex of, Statistics statistics) {
    const Split& samples = split == kTrain ? data_.train
                           : split == kVal ? data_.validation
                                           : data_.test;
    const int64_t limit =
        split == kTrain ? std::min(study_.train_samples, samples.size()) : samples.size();
    const Score score = trainer_.score(samples, statistics, limit);
    row.loss[split][of] = score.loss();
    row.accuracy[split][of] = score.accuracy();
  }

  void score_all(Measurement& row) {
    for (const SplitIndex split : {kTrain, kTest}) {
      score(row, split, kOfRunning, Statistics::kRunning);
    }
    if (trainer_.network().batch_norms().empty()) {
      for (const StatisticsIndex of : {kOfRecomputed, kOfBatch}) {
        for (const SplitIndex split : {kTrain, kVal, kTest}) {
          row.loss[split][of] = row.loss[split][kOfRunning];
          row.accuracy[split][of] = row.accuracy[split][kOfRunning];
        }
      }
      return;
    }
    for (const SplitIndex split : {kTrain, kVal, kTest}) {
      score(row, split, kOfBatch, Statistics::kBatch);
    }
    const auto kept = trainer_.running_statistics();
    trainer_.recompute_statistics(population());
    for (const SplitIndex split : {kTrain, kVal, kTest}) {
      score(row, split, kOfRecomputed, Statistics::kRunning);
    }
    trainer_.set_running_statistics(kept);
  }

  void probe() {
    const auto start = Clock::now();
    const bool last = !stopped_.empty();
    const auto append = [](auto& rows, auto more) {
      rows.insert(rows.end(), more.begin(), more.end());
    };
    if (study_.layers == "full" || (study_.layers == "last" && last)) {
      append(layers_, probe_layers(trainer_, population()));
    }
    if (study_.noise_scale > 1) {
      noise_scale_.push_back(probe_noise_scale(trainer_, study_.noise_scale));
    }
    if (study_.units > 0) append(units_, probe_units(trainer_, study_.units, population()));
    const auto ms = parse_integers("measure.noise_law", study_.noise_law);
    if (last && !ms.empty()) append(noise_law_, probe_noise_law(trainer_, population(), ms));
    probe_seconds_ += seconds_since(start);
  }

  void decide_to_stop(bool last) {
    const bool all_reached = std::all_of(targets_.begin(), targets_.end(),
                                         [&](double error) { return reached(error).has_value(); });
    if (last) {
      stopped_ = "budget";
    } else if (study_.stop == "target" && all_reached) {
      stopped_ = "target";
    } else if (study_.stop == "plateau" && epochs_without_gain_ >= kPlateauEpochs) {
      stopped_ = "plateau";
    }
  }

  void diverge(const std::string& why) {
    stopped_ = "divergence";
    reason_ = why;
  }

  // The evaluation that reached a target first.
  std::optional<size_t> reached(double error) const {
    const auto below = [&](size_t i) { return 1 - rows_[i].accuracy[kVal][kOfRunning] <= error; };
    for (size_t i = 0; i + 1 < rows_.size(); ++i) {
      if (below(i) && below(i + 1)) return i;
    }
    return std::nullopt;
  }

  int64_t population() const { return std::min(study_.population, data_.train.size()); }

  // Trained on by then.
  int64_t samples_at(int64_t step) const {
    const int64_t per_epoch = trainer_.steps_per_epoch(), batch = trainer_.batch();
    const bool drops = trainer_.options().train.drop_last;
    const int64_t of_epoch = drops ? per_epoch * batch : data_.train.size();
    return step / per_epoch * of_epoch + std::min(step % per_epoch * batch, of_epoch);
  }

  Json targets_json() const {
    Json all = Json::array();
    for (const double error : targets_) {
      const auto at = reached(error);
      Json target = {{"error", error},
                     {"steps", nullptr},
                     {"samples", nullptr},
                     {"epochs", nullptr},
                     {"seconds", nullptr}};
      if (at) {
        const Measurement& row = rows_[*at];
        target = {{"error", error},
                  {"steps", row.step},
                  {"samples", row.samples},
                  {"epochs", row.epoch},
                  {"seconds", row.seconds}};
      }
      all.push_back(target);
    }
    return all;
  }

  // Means over the lane's ranks (memory: the largest), per step where it says so.
  Json cost_json() {
    const StepTimes t = trainer_.take_times();
    at::Tensor sums = at::tensor(
        {t.data, t.forward, t.backward, t.norm_comm, t.gradient_comm, t.optimizer}, at::kDouble);
    lane_.host->all_reduce(sums, ReduceOp::kSum, {"seconds of the parts of steps"});
    sums.div_(lane_.host->size());
    const auto mean = [&](int64_t i) { return sums[i].item<double>(); };
    const double steps = std::max<double>(1, static_cast<double>(trainer_.step()));
    const auto per_step = [&](int64_t n) { return static_cast<double>(n) / steps; };
    return {{"data_s", mean(0)},
            {"forward_s", mean(1)},
            {"backward_s", mean(2)},
            {"norm_comm_s", mean(3)},
            {"gradient_comm_s", mean(4)},
            {"optimizer_s", mean(5)},
            {"evaluation_s", evaluation_seconds_},
            {"probe_s", probe_seconds_},
            {"step_s", seconds_ / steps},
            {"peak_tensor_bytes", lane_.host->max_on_host(peak_bytes_, {"peak memory"})},
            {"norm_calls", per_step(t.norm_traffic.calls)},
            {"norm_bytes", per_step(t.norm_traffic.bytes)},
            {"gradient_calls", per_step(t.gradient_traffic.calls)},
            {"gradient_bytes", per_step(t.gradient_traffic.bytes)}};
  }

  Json metadata() {
    const bool diverged = stopped_ == "divergence";
    const auto last = [&](const auto& of) {
      return diverged || rows_.empty() ? Json(nullptr) : Json(of(rows_.back())[kVal][kOfRunning]);
    };
    return {{"status", diverged ? "DIVERGED" : "COMPLETE"},
            {"lr", trainer_.options().train.lr},
            {"batch", trainer_.batch()},
            {"norm_batch", normalization_batch(trainer_)},
            {"device", lane_.device.str()},
            {"parameters", trainer_.replica().parameters().numel()},
            {"steps", trainer_.step()},
            {"epochs", static_cast<double>(trainer_.step()) /
                           static_cast<double>(trainer_.steps_per_epoch())},
            {"samples", samples_at(trainer_.step())},
            {"seconds", seconds_},
            {"stopped", stopped_},
            {"reason", reason_},
            {"final",
             {{"val_accuracy", last([](const Measurement& m) { return m.accuracy; })},
              {"val_loss", last([](const Measurement& m) { return m.loss; })}}},
            {"targets", targets_json()},
            {"cost", cost_json()}};
  }

  const Lane& lane_;
  const StudyOptions& study_;
  bool tunes_;
  std::vector<double> targets_;
  const Dataset& data_;
  TensorMemory memory_;  // before the trainer, which it counts
  Trainer trainer_;
  int64_t every_;
  std::string stopped_, reason_;  // why it ended; empty: it goes on
  std::vector<Measurement> rows_;
  std::vector<LayerRow> layers_;
  std::vector<NoiseLawRow> noise_law_;
  std::vector<NoiseScaleRow> noise_scale_;
  std::vector<UnitRow> units_;
  double seconds_ = 0, evaluation_seconds_ = 0, probe_seconds_ = 0;
  double first_loss_ = NAN, met_loss_ = NAN;  // means over samples
  int64_t peak_bytes_ = 0;
  double best_epoch_loss_ = INFINITY;
  int64_t epochs_without_gain_ = 0;
};

}  // namespace

TrialResult run_trial(const Lane& lane, const Options& options, const StudyOptions& study,
                      Stage stage, const Dataset& data, const Trainer::OnProgress& on_progress) {
  return Course(lane, options, study, stage, data, on_progress).run();
}

}  // namespace syncbn
