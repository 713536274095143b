#include "train/checkpointer.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "base/log.hpp"
#include "base/options_text.hpp"
#include "comm/arithmetic.hpp"
#include "comm/stop.hpp"
#include "train/run_texts.hpp"
#include "train/weights.hpp"

namespace syncbn {
namespace {

constexpr const char* kPosition = "position";
constexpr const char* kArithmetic = "arithmetic";
constexpr const char* kBest = "best.";

nlohmann::ordered_json to_json(const Checkpointer::Position& position) {
  const MetricsRow& row = position.row;
  nlohmann::ordered_json json = {{"epoch", row.epoch},
                                 {"samples", row.samples},
                                 {"seconds", row.seconds},
                                 {"csv_bytes", position.metrics.csv},
                                 {"jsonl_bytes", position.metrics.jsonl}};
  if (position.best) {
    json["best"] = {{"epoch", position.best->epoch},
                    {"step", position.best->step},
                    {"val_accuracy", position.best->val_accuracy},
                    {"val_loss", position.best->val_loss}};
  }
  return json;
}

[[noreturn]] void damaged(const std::string& path, const std::string& what) {
  throw Error(concat("'", path, "' is damaged: ", what, "."), ExitCode::kInputDamaged);
}

// A whole number from 0. (A conversion alone would make one of 0.7, of -1 and of 2^64 - 1.)
int64_t whole(const nlohmann::json& json, const char* key, const std::string& path) {
  constexpr auto kLargest = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  const nlohmann::json& value = json.at(key);
  if (!value.is_number_unsigned() || value.get<uint64_t>() > kLargest) {
    damaged(path, concat("its ", kPosition, " has ", quoted(value.dump()), " for ", key,
                         ", expected a whole number from 0"));
  }
  return value.get<int64_t>();
}

// `path`: the checkpoint that it is of.
Checkpointer::Position from_json(const std::string& text, const std::string& path) {
  Checkpointer::Position position;
  position.resumed = true;
  try {
    const auto json = nlohmann::json::parse(text);
    position.row.epoch = whole(json, "epoch", path);
    position.row.samples = whole(json, "samples", path);
    position.row.seconds = json.at("seconds");
    position.metrics = {whole(json, "csv_bytes", path), whole(json, "jsonl_bytes", path)};
    if (json.contains("best")) {
      const auto& best = json.at("best");
      position.best = BestEpoch{whole(best, "epoch", path), whole(best, "step", path),
                                best.at("val_accuracy"), best.at("val_loss")};
    }
  } catch (const nlohmann::json::exception& error) {
    damaged(path, concat("its ", kPosition, " is ", quoted(text), ": ", error.what()));
  }
  return position;
}

// What a digest does not find: numbers that no run writes.
void check_numbers(const Checkpointer::Position& position, const Checkpoint& checkpoint,
                   const Trainer& trainer, const std::string& path) {
  const int64_t step = checkpoint.step, epoch = position.row.epoch;
  const int64_t of_epoch = std::max<int64_t>(1, trainer.steps_per_epoch());
  const bool at_its_end = step > 0 && step % of_epoch == 0 && epoch == step / of_epoch - 1;
  if (epoch != step / of_epoch && !at_its_end) {
    damaged(path, concat("step ", step, " follows ", step / of_epoch, " whole epochs of ", of_epoch,
                         " steps, and its ", kPosition, " says ", epoch));
  }
  if (position.row.samples != epoch * trainer.samples_per_epoch()) {
    damaged(path, concat(epoch, " epochs of ", trainer.samples_per_epoch(),
                         " samples do not make the ", position.row.samples, " of its ", kPosition));
  }
  if (!(position.row.seconds >= 0)) {
    damaged(path, concat("its ", kPosition, " has ", position.row.seconds, " seconds"));
  }
  if (position.best && (position.best->epoch < 1 || position.best->epoch > epoch)) {
    damaged(path, concat("its best epoch is ", position.best->epoch, " of ", epoch));
  }
  for (const auto& [name, value] : checkpoint.tensors) {
    if (value.scalar_type() != at::kLong || value.numel() == 0)
      continue;  // all of these are counts
    if (value.min().item<int64_t>() < 0) {
      damaged(path, concat("tensor ", name, " is ", value.min().item<int64_t>(),
                           ", expected a count from 0"));
    }
  }
}

}  // namespace

Checkpointer::Checkpointer(const Setting& setting, Trainer& trainer, RunFolder& folder)
    : setting_(setting),
      trainer_(trainer),
      folder_(folder),
      files_(folder.checkpoints(), setting.options.run.keep_checkpoints) {}

// The texts that tell this run from others, and (collective) the trainer's state.
Checkpoint Checkpointer::describe_run() const {
  Checkpoint own;
  own.step = trainer_.step();
  own.tensors = trainer_.state();
  const Options& options = setting_.options;
  for_each_option(options, [&](const std::string& key, const auto&, const char*) {
    if (!may_change(options, key)) own.texts[key] = get_option(options, key);
  });
  own.texts["global batch"] = std::to_string(trainer_.batch());
  if (options.run.reduce == "fast" && options.norm.batch == "local") {
    own.texts["ranks"] = std::to_string(setting_.runtime.size());
  }
  for (const auto& [file, digest] : setting_.data.digests) own.texts[file] = digest;
  if (const std::string standard = standard_of(setting_); !standard.empty()) {
    own.texts[kStandard] = standard;
  }
  return own;
}

// What decides the bits besides the options.
std::string Checkpointer::computes_with() const {
  return concat(arithmetic(), setting_.placement.device.is_cuda() ? ", CUDA" : "");
}

// Why an option cannot change; those without a reason of their own have the advice alone.
// `path`: the checkpoint.
Reasons Checkpointer::reasons(const std::string& path) const {
  const std::string model = folder_.path() + "/model.safetensors";
  return {{{"train.epochs", "the cosine schedule depends on train.epochs"},
           {"global batch", "train.batch, or train.batch_per_rank times the ranks"},
           {"ranks", "norm.batch = local is a rank's share where run.reduce = fast"},
           {kWeights, "the file of model.weights has changed"},
           {"run.shards", "the order of sums is a part of the result"},
           {"run.reduce", "the order of sums is a part of the result"},
           {"run.keep_best", "it is known of all epochs or of none"},
           {"model.weights", "they are read where a run begins, and not again"}},
          concat("A resumed run goes on to the bits of one that was never stopped; to go on with ",
                 "other options begin a new run with --model.weights ",
                 folder_.has_model() ? model : path, ".")};
}

// A run of train.max_steps = 0 has no checkpoint; what it was is in its config.ini and
// metadata.json. Its weights are compared while their file is there.
bool Checkpointer::is_finished_without_steps(Checkpoint own) const {
  if (trainer_.steps_in_all() > 0 || !folder_.is_complete(0)) return false;
  const std::string path = folder_.path() + "/config.ini";
  const Options begun = parse_options(CommandLine{}, read_config(path), path);
  const std::string& weights = setting_.options.model.weights;
  std::error_code ignored;
  if (std::filesystem::is_regular_file(weights, ignored)) {
    own.texts[kWeights] = digest_of_weights(weights);
  }
  Checkpoint before = own;
  take_metadata(before.texts, folder_.metadata());
  for (const std::string& key : option_keys()) {
    if (own.texts.count(key) != 0) before.texts[key] = get_option(begun, key);
  }
  check_standard(before, own, path);
  check_same_run(before, own, path, reasons(path));
  return true;
}

// On rank 0, not collective: where the newest checkpoint stands, once all is checked. `own` then
// has the tensors that it has.
Checkpointer::Position Checkpointer::read(CheckpointFolder::Found& found, Checkpoint& own) const {
  Position position;
  found = files_.newest();
  if (!found.checkpoint) {
    position.finished = is_finished_without_steps(own);
    // What a run without checkpoints has left must not be lost to a new one.
    if (!position.finished && folder_.has_model()) {
      throw Error(
          concat("--resume: '", folder_.path(), "' holds a model and no checkpoint to go on ",
                 "from; name another folder with --run.out, or replace the run with ",
                 "--overwrite"),
          ExitCode::kCannotCreate);
    }
    return position;
  }
  std::map<std::string, std::string>& texts = found.checkpoint->texts;
  position = from_json(texts[kPosition], found.path);
  if (position.best) {
    for (const auto& entry : tensors_of_best()) own.tensors.push_back(entry);
  }
  add_missing_options(texts);
  check_standard(*found.checkpoint, own, found.path);
  check_same_run(*found.checkpoint, own, found.path, reasons(found.path));
  check_numbers(position, *found.checkpoint, trainer_, found.path);
  folder_.check_metrics(position.metrics, position.row.epoch);
  position.weights_sha256 = texts[kWeights];
  const int64_t step = found.checkpoint->step;
  position.finished = step == trainer_.steps_in_all() && folder_.is_complete(step);
  return position;
}

// The tensors of the best model, as a checkpoint names them; their values are those of now.
NamedTensors Checkpointer::tensors_of_best() const {
  NamedTensors tensors;
  for (const auto& [name, value] : trainer_.replica().state_dict()) {
    tensors.emplace_back(kBest + name, value.cpu().clone());
  }
  return tensors;
}

Checkpointer::Position Checkpointer::resume() {
  Communicator& world = *setting_.runtime.world();
  Checkpoint own = describe_run();
  CheckpointFolder::Found found;
  Position position;
  agree(world, {"reading the checkpoint"}, [&] {
    if (world.rank() == 0) position = read(found, own);
  });
  for (const std::string& warning : found.warnings) log_warning(warning);
  const std::string text = position.resumed ? to_json(position).dump() : "";
  const std::string sent = world.gather_text(text, {"the position in the checkpoint"}).front();
  at::Tensor at_step = at::full({2}, found.checkpoint ? found.checkpoint->step : 0, at::kLong);
  at_step[1] = static_cast<int64_t>(position.finished);
  world.broadcast(at_step, 0, {"the step of the checkpoint"});
  const auto step = at_step[0].item<int64_t>();
  const bool finished = at_step[1].item<int64_t>() != 0;
  if (finished) {
    log_info(concat("finished '", folder_.path(), "' holds this run's results, of all its ", step,
                    " steps: nothing is to be done"));
    position.finished = true;
    return position;
  }
  if (sent.empty()) {
    log_warning("--resume: no checkpoint in '" + folder_.checkpoints() + "'; the run begins");
    return {};
  }
  if (step > trainer_.steps_in_all()) {
    throw UsageError(concat("--resume: the run has taken ", step, " steps, and train.epochs and ",
                            "train.max_steps end it after ", trainer_.steps_in_all(),
                            "; raise them, or name another folder with --run.out"));
  }
  if (world.rank() != 0) {
    position = from_json(sent, found.path);
    if (position.best) {
      for (const auto& entry : tensors_of_best()) own.tensors.push_back(entry);
    }
  }
  position.weights_sha256 =
      world.gather_text(position.weights_sha256, {"the digest of the first weights"}).front();
  own.step = step;
  take(own, position, found);
  log_info(concat("resumed  ", found.path, ", step ", step));
  if (found.checkpoint && found.checkpoint->texts[kArithmetic] != computes_with()) {
    log_warning(concat("the checkpoint was computed on a machine of another kind (",
                       found.checkpoint->texts[kArithmetic], "; here ", computes_with(),
                       "): the bits may differ from those of a run that was not stopped"));
  }
  return position;
}

// Collective. The state of a checkpoint that rank 0 has read; `own` says what tensors it has.
void Checkpointer::take(Checkpoint& own, const Position& position,
                        const CheckpointFolder::Found& found) {
  Communicator& world = *setting_.runtime.world();
  std::map<std::string, at::Tensor> read;
  if (found.checkpoint) read = {found.checkpoint->tensors.begin(), found.checkpoint->tensors.end()};
  if (position.best) best_.emplace(BestModel{*position.best, {}});
  for (auto& [name, value] : own.tensors) {
    at::Tensor host = world.rank() == 0 ? read.at(name).clone() : at::empty_like(value, at::kCPU);
    world.broadcast(host, 0, {"the tensors of the checkpoint"});
    value = host;
    const std::string best = kBest;
    if (name.rfind(best, 0) == 0) best_->tensors.emplace_back(name.substr(best.size()), host);
  }
  trainer_.restore(own.tensors, own.step);
  trainer_.check_replicas();
  // A later epoch may have been better, and the run be ended before it this time.
  if (best_) write_best();
}

std::optional<BestEpoch> Checkpointer::best() const {
  return best_ ? std::optional(best_->of) : std::nullopt;
}

void Checkpointer::keep_if_best(const MetricsRow& row) {
  const BestEpoch epoch = epoch_of(row);
  if (!setting_.options.run.keep_best || (best_ && !is_better(epoch, best_->of))) return;
  best_.emplace(BestModel{epoch, {}});
  for (const auto& [name, value] : trainer_.replica().state_dict()) {
    best_->tensors.emplace_back(name, value.cpu().clone());
  }
  write_best();
}

void Checkpointer::write_best() {
  const BestEpoch& best = best_->of;
  folder_.write_best(
      to_safetensors(best_->tensors, {{"format", "pt"},
                                      {"epoch", std::to_string(best.epoch)},
                                      {"step", std::to_string(best.step)},
                                      {"val_accuracy", write_value(best.val_accuracy)},
                                      {"val_loss", write_value(best.val_loss)}}));
}

bool Checkpointer::after_step(bool looked, const MetricsRow& row) {
  const RunOptions& run = setting_.options.run;
  Replica& replica = trainer_.replica();
  const int64_t step = trainer_.step();
  const auto every = [&](int64_t steps) { return steps > 0 && step % steps == 0; };
  const bool stop = looked && replica.requested(Request::kStop);
  const bool asked = looked && replica.requested(Request::kSave);
  const bool last = step == trainer_.steps_in_all();
  const bool saves = stop || asked || last || every(run.checkpoint_steps);
  if (saves || every(run.check_steps)) trainer_.check_replicas();
  if (saves && !looked) trainer_.check_loss();  // nothing of a diverged run is kept
  if (saves) save(row);

  // What all learn by the next step.
  if (stop_requested()) replica.request(Request::kStop);
  const std::chrono::duration<double, std::ratio<60>> minutes = Clock::now() - saved_at_;
  if (run.checkpoint_minutes > 0 && minutes.count() >= run.checkpoint_minutes) {
    replica.request(Request::kSave);
  }
  return !stop || last;
}

void Checkpointer::save(const MetricsRow& row) {
  Checkpoint checkpoint = describe_run();
  if (best_) {
    for (const auto& [name, value] : best_->tensors) {
      checkpoint.tensors.emplace_back(kBest + name, value);
    }
  }
  checkpoint.texts[kArithmetic] = computes_with();
  checkpoint.texts["config"] = to_ini(setting_.options);
  checkpoint.texts["versions"] = version_text();
  if (!setting_.weights_sha256.empty()) {
    checkpoint.texts[kWeights] = setting_.weights_sha256;
  }
  agree(*setting_.runtime.world(), {"writing a checkpoint"}, [&] {
    if (setting_.runtime.rank() != 0) return;
    Position position;
    position.row = row;
    position.metrics = folder_.flush_metrics();
    position.best = best();
    checkpoint.texts[kPosition] = to_json(position).dump();
    files_.save(checkpoint);
  });
  saved_at_ = Clock::now();
}

}  // namespace syncbn
