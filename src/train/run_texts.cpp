#include "train/run_texts.hpp"

#include <nlohmann/json.hpp>

#include "base/options_text.hpp"

namespace syncbn {

bool may_change(const Options& options, const std::string& key) {
  if (key == "train.epochs") return options.train.schedule != "cosine";
  if (key == "train.max_steps" || key == "data.dir") return true;
  // What these two mean together is the global batch, which is compared instead.
  if (key == "train.batch" || key == "train.batch_per_rank") return true;
  const bool is_run = key.compare(0, 4, "run.") == 0;
  return is_run && key != "run.seed" && key != "run.dtype" && key != "run.reduce" &&
         key != "run.shards" && key != "run.keep_best";
}

void add_missing_options(Texts& texts) {
  const Options defaults;
  for_each_option(defaults, [&](const std::string& key, const auto&, const char*) {
    texts.emplace(key, get_option(defaults, key));
  });
}

namespace {

std::string mean_and_deviation(const PixelScale& scale) {
  return concat(write_value(scale.shift), " and ", write_value(scale.divisor));
}

}  // namespace

std::string standard_of(const Setting& setting) {
  if (setting.options.data.scale != "standard" || setting.data.name == "mnist") return "";
  return mean_and_deviation(setting.data.standard);
}

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

void take_metadata(Texts& texts, const nlohmann::json& metadata) {
  const auto object = [&](const char* key) {
    const auto found = metadata.value(key, nlohmann::json());
    return found.is_object() ? found : nlohmann::json::object();
  };
  const auto take = [&](const nlohmann::json& from, const char* key, const std::string& text) {
    const auto value = from.value(key, nlohmann::json());
    if (value.is_null() || texts.count(text) == 0) return;
    texts[text] = value.is_string() ? value.get<std::string>() : value.dump();
  };
  take(metadata, "batch", "global batch");
  take(metadata, "ranks", "ranks");
  take(object("weights"), "sha256", kWeights);
  const nlohmann::json data = object("data");
  const auto digests = data.value("sha256", nlohmann::json());
  if (digests.is_object()) {
    for (const auto& digest : digests.items()) {
      take(digests, digest.key().c_str(), digest.key());
    }
  }
  const auto mean = data.value("mean", nlohmann::json());
  const auto deviation = data.value("deviation", nlohmann::json());
  if (texts.count(kStandard) == 0) return;
  texts.erase(kStandard);  // a version that did not tell them took MNIST's
  if (mean.is_number() && deviation.is_number()) {
    texts[kStandard] = mean_and_deviation({mean, deviation});
  }
}

}  // namespace syncbn
