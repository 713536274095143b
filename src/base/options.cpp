#include "base/options.hpp"

#include <cmath>

#include "base/options_ini.hpp"
#include "base/options_table.hpp"

namespace syncbn {

namespace {

enum class Source { kDefault, kFile, kLine };

Source source_of(const Options& options, const std::string& key) {
  if (options.from_file.count(key) != 0) return Source::kFile;
  return options.set_keys.count(key) != 0 ? Source::kLine : Source::kDefault;
}

// "mnist.ini: line 3: train.lr", "--train.lr" or "train.lr".
std::string name_of(const Options& options, const std::string& key) {
  const Source source = source_of(options, key);
  if (source == Source::kFile) return concat(options.from_file.at(key), ": ", key);
  return (source == Source::kLine ? "--" : "") + key;
}

}  // namespace

UsageError option_error(const Options& options, const std::string& key, const std::string& message,
                        const std::vector<std::string>& others) {
  std::string cause = key;
  for (const std::string& other : others) {
    if (source_of(options, other) > source_of(options, cause)) cause = other;
  }
  const ExitCode code =
      source_of(options, cause) == Source::kFile ? ExitCode::kConfig : ExitCode::kUsage;
  const std::string name = name_of(options, key);
  if (cause == key) return UsageError(concat(name, ": ", message), code);
  return UsageError(concat(name_of(options, cause), " does not go with ", name, ": ", message),
                    code);
}

void set_option(Options& options, const std::string& key, const std::string& value,
                const std::string& where) {
  const auto expected = read_option(options, key, value);
  if (!expected) refuse_line(where, unknown_key(key, option_keys()));

  options.set_keys.insert(key);
  options.from_file.erase(key);
  if (!where.empty()) options.from_file[key] = where;
  if (!expected->empty()) {
    const bool decimal = expected->find("a number") == 0;
    throw option_error(options, key,
                       concat("expected ", *expected, ", ", found_text(value, decimal)));
  }
}

std::string get_option(const Options& options, const std::string& key) {
  const auto value = write_option(options, key);
  if (!value) throw UsageError(unknown_key(key, option_keys()));
  return *value;
}

std::string to_ini(const Options& options) {
  std::string text = "# Every option of a syncbn run; --config reads this file.\n";
  std::string section;
  for_each_option(options, [&](const std::string& key, const auto& field, const char*) {
    const size_t dot = key.find('.');
    if (key.substr(0, dot) != section) {
      section = key.substr(0, dot);
      text += "\n[" + section + "]\n";
    }
    // Stating both would be refused when read back.
    if (key == "train.batch" && options.train.batch_per_rank > 0) {
      text += "# batch is batch_per_rank times the number of ranks\n";
      return;
    }
    const std::string value = write_value(field);
    text += key.substr(dot + 1) + (value.empty() ? " =" : " = ") + value + "\n";
  });
  return text;
}

Sharding make_sharding(const RunOptions& options, int rank, int ranks) {
  const bool canonical = options.reduce == "canonical";
  return {canonical ? options.shards : ranks, rank, ranks, canonical};
}

uint64_t seed_of(const Options& options, Stream stream) {
  const auto own = [&] {
    switch (stream) {
      case Stream::kInit:
        return options.seed.init;
      case Stream::kOrder:
        return options.seed.order;
      case Stream::kDropout:
      case Stream::kAugmentation:
        return options.seed.noise;
      case Stream::kSplit:
        return options.seed.split;
      case Stream::kGrouping:
        return options.seed.grouping;
      default:
        return int64_t{-1};
    }
  }();
  return static_cast<uint64_t>(own < 0 ? options.run.seed : own);
}

int64_t global_batch(const TrainOptions& options, int ranks) {
  return options.batch_per_rank > 0 ? options.batch_per_rank * ranks : options.batch;
}

double scaled_rate(const TrainOptions& options, int64_t batch) {
  const double ratio = static_cast<double>(batch) / static_cast<double>(options.lr_reference);
  if (options.lr_rule == "linear") return options.lr * ratio;
  if (options.lr_rule == "sqrt") return options.lr * std::sqrt(ratio);
  return options.lr;
}

std::optional<int64_t> norm_batch_number(const NormOptions& options) {
  int64_t samples = 0;
  if (read_value(options.batch, samples) != nullptr) return std::nullopt;
  return samples;
}

std::optional<double> validation_fraction(const DataOptions& options) {
  double fraction = 0;
  const bool is_number = read_value(options.validation, fraction) == nullptr;
  return is_number && fraction > 0 && fraction < 1 ? std::optional(fraction) : std::nullopt;
}

std::vector<int64_t> parse_sizes(const std::string& key, const std::string& text) {
  const auto sizes = read_sizes(text);
  if (!sizes) {
    throw UsageError(concat(key, ": expected ", kSizesExpected, ", found ", quoted(text)));
  }
  return *sizes;
}

}  // namespace syncbn
