#include "train/description.hpp"

#include <ATen/Parallel.h>
#include <openssl/crypto.h>
#include <torch/version.h>
#include <zlib.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <iomanip>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/log.hpp"
#include "comm/arithmetic.hpp"
#include "comm/cuda_device.hpp"
#include "train/build_identity.hpp"

namespace syncbn {
namespace {

// Names of the environment that may change a result or a speed, and hold nothing private.
constexpr const char* kEnvironment[] = {"OMP_NUM_THREADS",     "OMP_DYNAMIC",
                                        "MKL_DYNAMIC",         "MKL_CBWR",
                                        "ATEN_CPU_CAPABILITY", "NCCL_ALGO",
                                        "NCCL_PROTO",          "NCCL_DEBUG",
                                        "NCCL_SOCKET_IFNAME",  "CUDA_VISIBLE_DEVICES",
                                        "OMPI_MCA_btl",        "CUBLAS_WORKSPACE_CONFIG"};

std::string text_of(int64_t least, int64_t most) {
  return least == most ? std::to_string(least) : concat(least, " to ", most);
}

std::string shares(const Setting& s) {
  int64_t least = s.trainer.batch(), most = 0;
  for (int r = 0; r < s.runtime.size(); ++r) {
    const Sharding sharding = make_sharding(s.options.run, r, s.runtime.size());
    least = std::min(least, sharding.rows(s.trainer.batch()).size());
    most = std::max(most, sharding.rows(s.trainer.batch()).size());
  }
  return text_of(least, most);
}

std::string statistics(const Setting& s) {
  const NormOptions& norm = s.options.norm;
  if (norm.kind == "batch" && s.trainer.network().batch_norms().empty()) {
    return "none (the model has no norm layer)";
  }
  if (norm.kind != "batch") return "none (norm.kind = " + norm.kind + ")";
  const int64_t batch = s.trainer.batch();
  const Sharding sharding = make_sharding(s.options.run, 0, s.runtime.size());
  if (norm.batch == "local") {
    return concat(text_of(batch / sharding.shards, (batch + sharding.shards - 1) / sharding.shards),
                  sharding.canonical ? " (local: each shard its own); "
                                     : " (local: each rank its own share); ",
                  sharding.shards, " groups");
  }
  const int64_t size = group_size(norm.batch, batch), groups = (batch + size - 1) / size;
  const GroupPlan plan = plan_groups(batch, size, sharding);
  const char* where = s.runtime.size() == 1    ? ""
                      : plan.groups.slots == 0 ? ", each within one rank"
                      : groups == 1            ? " over all ranks: synchronized"
                                               : ", across ranks";
  return concat(size, norm.batch == "global" ? " (global)" : "", "; ", groups,
                groups == 1 ? " group" : " groups", where);
}

std::string sums(const Setting& s) {
  const RunOptions& run = s.options.run;
  if (run.reduce == "fast") return "fast: equal at any number of ranks but for rounding";
  return concat("canonical, in ", run.shards, " shards: the same bits on 1 to ", run.shards,
                " ranks");
}

std::string learning_rate(const Setting& s) {
  const TrainOptions& train = s.options.train;
  std::ostringstream out;
  out << s.trainer.base_learning_rate();
  if (train.lr_rule != "none") {
    out << " = " << train.lr << " by the " << train.lr_rule << " rule from batch "
        << train.lr_reference;
  }
  if (train.warmup_steps > 0) out << ", warm-up " << train.warmup_steps << " steps";
  if (train.schedule != "constant") out << ", " << train.schedule << " schedule";
  return out.str();
}

std::string standard_text(const Dataset& data) {
  const PixelScale& scale = data.standard;
  return concat("(x/255 - ", scale.shift, ") / ", scale.divisor, ", mean and deviation of ",
                published_standard(data.name) != nullptr ? data.name : "the training samples");
}

nlohmann::ordered_json data_json(const Setting& s) {
  nlohmann::ordered_json json = {{"name", s.data.name},
                                 {"dir", s.options.data.dir},
                                 {"train", s.data.train.size()},
                                 {"validation", s.data.validation.size()},
                                 {"test", s.data.test.size()},
                                 {"measured_on", measured_on(s.options)},
                                 {"inputs", s.data.train.pixels()},
                                 {"classes", s.data.classes},
                                 {"sha256", s.data.digests}};
  if (s.options.data.scale == "standard") {
    json["mean"] = s.data.standard.shift;
    json["deviation"] = s.data.standard.divisor;
  }
  return json;
}

// Each device once, in the order of ranks, and how many ranks share it.
std::vector<std::string> devices(const std::vector<std::string>& of_ranks) {
  std::vector<std::pair<std::string, int>> counted;
  for (const auto& device : of_ranks) {
    if (counted.empty() || counted.back().first != device) counted.emplace_back(device, 0);
    ++counted.back().second;
  }
  std::vector<std::string> texts;
  for (const auto& [device, ranks] : counted) {
    texts.push_back(ranks == 1 ? device : concat(device, " (", ranks, " ranks)"));
  }
  return texts;
}

nlohmann::ordered_json versions() {
  return {{"syncbn", SYNCBN_VERSION},
          {"commit", build_commit()},
          {"dirty", build_dirty()},
          {"LibTorch", TORCH_VERSION},
          {"MPI", Runtime::mpi_version()},
          {"NCCL", cuda::nccl_version()},
          {"CUDA runtime", cuda::version()},
          {"Boost", parser_library_version()},
          {"zlib", zlibVersion()},
          {"OpenSSL", OpenSSL_version(OPENSSL_VERSION_STRING)},
          {"spdlog", log_library_version()},
          {"nlohmann-json", concat(NLOHMANN_JSON_VERSION_MAJOR, '.', NLOHMANN_JSON_VERSION_MINOR,
                                   '.', NLOHMANN_JSON_VERSION_PATCH)},
          {"compiler", __VERSION__}};
}

}  // namespace

std::string measured_on(const Options& options) {
  return validation_fraction(options.data) ? "validation" : "test";
}

std::string describe(const Setting& s) {
  std::ostringstream out;
  const auto line = [&](const char* name, const auto&... value) {
    out << "  " << std::left << std::setw(26) << name;
    (out << ... << value) << '\n';
  };
  const TrainOptions& train = s.options.train;
  out << "syncbn " << SYNCBN_VERSION << '\n';
  line("data", s.data.name, ", ", s.data.train.size(), " training",
       measured_on(s.options) == "test"
           ? " and "
           : concat(", ", s.data.validation.size(), " validation and "),
       s.data.test.size(), " test samples of ", s.data.classes, " classes");
  if (s.options.data.scale == "standard") line("inputs", standard_text(s.data));
  if (!s.options.model.weights.empty()) line("begins with", s.options.model.weights);
  line("B  samples per step", s.trainer.batch(), " over all ranks");
  line("R  ranks", s.runtime.size(), "; ", shares(s), " samples each");
  line("M  samples per statistic", statistics(s));
  line("sums", sums(s));
  line("steps", s.trainer.steps_per_epoch(), " per epoch; ", s.trainer.steps_in_all(), " in all");
  line("optimizer", train.optimizer, ", learning rate ", learning_rate(s));
  if (train.weight_decay > 0) {
    line(
        "weight decay", train.weight_decay,
        train.decay == "all" ? " of all parameters" : " of weights, not of biases and norm layers");
  }
  const std::vector<std::string> where = devices(s.placement.rank_devices);
  line("device", where.empty() ? "cpu" : where[0], ", ", s.options.run.dtype, ", ",
       s.threads.threads, s.threads.threads == 1 ? " thread" : " threads",
       " per rank, collectives by ", s.placement.backend);
  for (size_t i = 1; i < where.size(); ++i) line("", where[i]);
  line("seed", s.options.run.seed);
  out << '\n' << s.trainer.network().table();
  for (const auto& note : {s.placement.note, s.data.note}) {
    if (!note.empty()) out << "note: " << note << '\n';
  }
  return out.str();
}

std::string metadata_json(const Setting& s, const std::string& status) {
  nlohmann::ordered_json environment = nlohmann::ordered_json::object();
  for (const char* name : kEnvironment) {
    if (const char* value = std::getenv(name)) environment[name] = value;
  }
  nlohmann::ordered_json metadata = {{"status", status},
                                     {"started", s.started},
                                     {"time", now_utc()},
                                     {"command", s.command},
                                     {"batch", s.trainer.batch()},
                                     {"norm_batch", s.options.norm.batch},
                                     {"ranks", s.runtime.size()},
                                     {"rank_devices", s.placement.rank_devices},
                                     {"backend", s.placement.backend},
                                     {"dtype", s.options.run.dtype},
                                     {"reduce", s.options.run.reduce},
                                     {"shards", s.options.run.shards},
                                     {"arithmetic", arithmetic()},
                                     {"threads_per_rank", s.threads.threads},
                                     {"cores_of_rank_0", s.threads.bound_cores},
                                     {"seed", s.options.run.seed},
                                     {"data", data_json(s)},
                                     {"steps_done", s.trainer.step()},
                                     {"versions", versions()},
                                     {"environment", environment}};
  if (!s.options.model.weights.empty()) {
    metadata["weights"] = {{"file", s.options.model.weights}, {"sha256", s.weights_sha256}};
  }
  if (s.best) {
    metadata["best"] = {{"file", "best.safetensors"},
                        {"epoch", s.best->epoch},
                        {"step", s.best->step},
                        {"val_accuracy", s.best->val_accuracy},
                        {"val_loss", s.best->val_loss}};
  }
  constexpr int kIndent = 2;
  return metadata.dump(kIndent, ' ', false, nlohmann::json::error_handler_t::replace) + '\n';
}

std::string versions_json() {
  return versions().dump();
}

std::string now_utc() {
  const std::time_t now = std::time(nullptr);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&now));
  return text;
}

std::string version_text() {
  std::ostringstream out;
  const nlohmann::ordered_json all = versions();
  for (const auto& [name, value] : all.items()) {
    out << std::left << std::setw(14) << name << value.get<std::string>() << '\n';
  }
  return out.str();
}

}  // namespace syncbn
