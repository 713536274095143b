#include "train/checkpointer.hpp"

#include <ATen/ATen.h>

#include <nlohmann/json.hpp>

#include "base/log.hpp"
#include "base/options_text.hpp"
#include "comm/arithmetic.hpp"
#include "comm/stop.hpp"

namespace syncbn {
namespace {

constexpr const char* kPosition = "position";
constexpr const char* kArithmetic = "arithmetic";
constexpr const char* kStandard = "mean and deviation of data.scale = standard";

// Options that may change when a run goes on: where it runs and how long, not what it computes.
bool may_change(const Options& options, const std::string& key) {
  if (key == "train.epochs") return options.train.schedule != "cosine";
  if (key == "train.max_steps" || key == "data.dir") return true;
  // What these two mean together is the global batch, which is compared instead.
  if (key == "train.batch" || key == "train.batch_per_rank") return true;
  const bool is_run = key.compare(0, 4, "run.") == 0;
  return is_run && key != "run.seed" && key != "run.dtype" && key != "run.reduce" &&
         key != "run.shards";
}

// An earlier version wrote no text for an option that it did not know: that is the default.
void add_missing_options(std::map<std::string, std::string>& texts) {
  const Options defaults;
  for_each_option(defaults, [&](const std::string& key, const auto&, const char*) {
    texts.emplace(key, get_option(defaults, key));
  });
}

// The mean and deviation that data.scale = standard took of what is not MNIST; empty: none.
std::string standard_of(const Setting& setting) {
  if (setting.options.data.scale != "standard" || setting.data.name == "mnist") return "";
  const PixelScale& scale = setting.data.standard;
  return concat(write_value(scale.shift), " and ", write_value(scale.divisor));
}

// Earlier versions scaled every set by MNIST's: to go on would change the inputs in silence.
void check_standard(const Checkpoint& found, const Checkpoint& own, const std::string& path) {
  if (own.texts.count(kStandard) == 0 || found.texts.count(kStandard) != 0 ||
      found.texts.count("data.scale") == 0 || found.texts.at("data.scale") != "standard") {
    return;
  }
  throw Error(concat("'", path, "' is of a version whose data.scale = standard took MNIST's mean ",
                     "and deviation (0.1307 and 0.3081) for every data set; this version takes ",
                     "the set's own (", own.texts.at(kStandard), "), and the run would go on with ",
                     "other inputs: go on with the version that began it, or begin a new run."),
              ExitCode::kInputDamaged);
}

nlohmann::ordered_json to_json(const Checkpointer::Position& position) {
  const MetricsRow& row = position.row;
  return {{"epoch", row.epoch},
          {"samples", row.samples},
          {"seconds", row.seconds},
          {"csv_bytes", position.metrics.csv},
          {"jsonl_bytes", position.metrics.jsonl}};
}

// `path`: the checkpoint that it is of.
Checkpointer::Position from_json(const std::string& text, const std::string& path) {
  Checkpointer::Position position;
  try {
    const auto json = nlohmann::json::parse(text);
    position.row.epoch = json.at("epoch");
    position.row.samples = json.at("samples");
    position.row.seconds = json.at("seconds");
    position.metrics = {json.at("csv_bytes"), json.at("jsonl_bytes")};
  } catch (const nlohmann::json::exception& error) {
    throw Error(concat("'", path, "' is damaged: its ", kPosition, " is ", quoted(text), ": ",
                       error.what(), "."),
                ExitCode::kInputDamaged);
  }
  return position;
}

}  // namespace

Checkpointer::Checkpointer(const Setting& setting, Trainer& trainer, const RunFolder& folder)
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

Checkpointer::Position Checkpointer::resume() {
  Communicator& world = *setting_.runtime.world();
  Checkpoint own = describe_run();
  CheckpointFolder::Found found;
  Position position;
  agree(world, {"reading the checkpoint"}, [&] {
    if (world.rank() != 0) return;
    found = files_.newest();
    // What a run without checkpoints has left must not be lost to a new one.
    if (!found.checkpoint && folder_.has_model()) {
      throw Error(
          concat("--resume: '", folder_.path(), "' holds a model and no checkpoint to go on ",
                 "from; name another folder with --run.out, or replace the run with ",
                 "--overwrite"),
          ExitCode::kCannotCreate);
    }
    if (!found.checkpoint) return;
    add_missing_options(found.checkpoint->texts);
    check_standard(*found.checkpoint, own, found.path);
    check_same_run(*found.checkpoint, own, found.path);
    position = from_json(found.checkpoint->texts[kPosition], found.path);
  });
  for (const std::string& warning : found.warnings) log_warning(warning);
  const std::string text = found.checkpoint ? to_json(position).dump() : "";
  const std::string sent = world.gather_text(text, {"the position in the checkpoint"}).front();
  if (sent.empty()) {
    log_warning("--resume: no checkpoint in '" + folder_.checkpoints() + "'; the run begins");
    return {};
  }
  position = from_json(sent, found.path);
  at::Tensor at_step = at::full({1}, found.checkpoint ? found.checkpoint->step : 0, at::kLong);
  world.broadcast(at_step, 0, {"the step of the checkpoint"});
  const auto step = at_step.item<int64_t>();
  if (step > trainer_.steps_in_all()) {
    throw UsageError(concat("--resume: the run has taken ", step, " steps, and train.epochs and ",
                            "train.max_steps end it after ", trainer_.steps_in_all(),
                            "; raise them, or name another folder with --run.out"));
  }
  std::map<std::string, at::Tensor> read;
  if (found.checkpoint) read = {found.checkpoint->tensors.begin(), found.checkpoint->tensors.end()};
  for (auto& [name, value] : own.tensors) {
    at::Tensor host = world.rank() == 0 ? read.at(name).clone() : at::empty_like(value, at::kCPU);
    world.broadcast(host, 0, {"the tensors of the checkpoint"});
    value = host;
  }
  trainer_.restore(own.tensors, step);
  trainer_.replica().check_equal();
  log_info(concat("resumed  ", found.path, ", step ", step));
  if (found.checkpoint && found.checkpoint->texts[kArithmetic] != computes_with()) {
    log_warning(concat("the checkpoint was computed on a machine of another kind (",
                       found.checkpoint->texts[kArithmetic], "; here ", computes_with(),
                       "): the bits may differ from those of a run that was not stopped"));
  }
  return position;
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
  if (saves || every(run.check_steps)) replica.check_equal();
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
  checkpoint.texts[kArithmetic] = computes_with();
  checkpoint.texts["config"] = to_ini(setting_.options);
  checkpoint.texts["versions"] = version_text();
  agree(*setting_.runtime.world(), {"writing a checkpoint"}, [&] {
    if (setting_.runtime.rank() != 0) return;
    checkpoint.texts[kPosition] = to_json({row, folder_.flush_metrics()}).dump();
    files_.save(checkpoint);
  });
  saved_at_ = Clock::now();
}

}  // namespace syncbn
