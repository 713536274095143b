// The options: one table, read and written in four ways, and what it refuses.
#include "base/options.hpp"

#include <gtest/gtest.h>

#include <map>
#include <regex>
#include <set>
#include <sstream>

#include "support/options_support.hpp"

namespace syncbn {
namespace {

// What one key is set to below: valid, and not the default.
const std::map<std::string, std::string>& other_values() {
  static const std::map<std::string, std::string> values = {
      {"data.name", "synthetic"},
      {"data.dir", "some folder/é"},
      {"data.classes", "47"},
      {"data.label_offset", "1"},
      {"data.limit", "1000"},
      {"data.scale", "half"},
      {"data.augment", "crop"},
      {"data.validation", "0.2"},
      {"model.hidden", "300,100,50"},
      {"model.activation", "tanh"},
      {"model.init", "normal"},
      {"model.init_std", "0.1"},
      {"model.dropout", "0.30000000000000004"},
      {"norm.kind", "layer"},
      {"norm.batch", "32"},
      {"norm.position", "post"},
      {"norm.output", "true"},
      {"norm.momentum", "0.01"},
      {"norm.cumulative", "true"},
      {"norm.running_variance", "biased"},
      {"norm.eps", "0.001"},
      {"norm.eval", "recomputed"},
      {"train.batch", "64"},
      {"train.batch_per_rank", "16"},
      {"train.epochs", "7"},
      {"train.max_steps", "0"},
      {"train.optimizer", "sgd"},
      {"train.lr", "0.1"},
      {"train.lr_rule", "linear"},
      {"train.lr_reference", "256"},
      {"train.warmup_steps", "100"},
      {"train.schedule", "cosine"},
      {"train.milestones", "10,20"},
      {"train.gamma", "0.5"},
      {"train.momentum", "0.5"},
      {"train.nesterov", "true"},
      {"train.beta1", "0.8"},
      {"train.beta2", "0.99"},
      {"train.adam_eps", "1e-07"},
      {"train.weight_decay", "0.0025"},
      {"train.clip", "1"},
      {"train.drop_last", "true"},
      {"seed.init", "9223372036854775807"},
      {"seed.order", "0"},
      {"seed.noise", "3"},
      {"seed.split", "4"},
      {"seed.grouping", "5"},
      {"run.seed", "9223372036854775807"},
      {"run.out", "runs/a = b; c"},
      {"run.device", "cpu"},
      {"run.backend", "mpi"},
      {"run.dtype", "float64"},
      {"run.reduce", "fast"},
      {"run.shards", "12"},
      {"run.threads", "2"},
      {"run.checkpoint_steps", "50"},
      {"run.checkpoint_minutes", "2.5"},
      {"run.keep_checkpoints", "3"},
      {"run.keep_best", "true"},
      {"model.weights", "runs/a/model.safetensors"},
      {"train.decay", "weights"},
      {"run.check", "full"},
      {"run.check_steps", "7"},
      {"run.timeout", "2.5"}};
  return values;
}

TEST(Options, EveryKeyIsSetReadBackAndListed) {
  const Options defaults;
  const std::string help = help_text(train_program());
  size_t keys = 0;
  for_each_option(defaults, [&](const std::string& key, const auto&, const char*) {
    SCOPED_TRACE(key);
    ++keys;
    ASSERT_EQ(other_values().count(key), 1u) << "give this key a value in other_values()";
    const std::string value = other_values().at(key);
    EXPECT_NE(get_option(defaults, key), value) << "other_values() must differ from the defaults";

    const Options by_line = parse({"--" + key, value});
    EXPECT_EQ(get_option(by_line, key), value);
    EXPECT_EQ(by_line.set_keys, std::set<std::string>{key});
    EXPECT_TRUE(by_line.from_file.empty());
    EXPECT_EQ(to_ini(parse({"--" + key + "=" + value})), to_ini(by_line));

    const Options by_file = parse({}, to_ini(by_line));
    for_each_option(defaults, [&](const std::string& other, const auto&, const char*) {
      EXPECT_EQ(get_option(by_file, other), other == key ? value : get_option(defaults, other));
    });
    EXPECT_EQ(by_file.from_file.count(key), 1u);
    EXPECT_NE(help.find("--" + key + " "), std::string::npos);
  });
  EXPECT_EQ(keys, other_values().size());
}

TEST(Options, AllKeysTogetherComeBackFromTheSavedFile) {
  std::vector<std::string> words;
  for (const auto& [key, value] : other_values()) {
    if (key != "train.batch") words.insert(words.end(), {"--" + key, value});
  }
  const Options options = parse(words);
  const std::string ini = to_ini(options);
  EXPECT_EQ(to_ini(parse({}, ini)), ini);
  EXPECT_EQ(get_option(parse({}, ini), "run.out"), "runs/a = b; c");
  EXPECT_EQ(to_ini(parse({}, to_ini(Options()))), to_ini(Options()));
}

TEST(Options, CommandLineBeatsFileBeatsDefault) {
  const std::string file = "[train]\nbatch = 32\nlr = 0.5\n[norm]\neps = 0.25\n";
  const Options options = parse({"--train.lr", "0.125"}, file);
  EXPECT_EQ(options.train.lr, 0.125);
  EXPECT_EQ(options.train.batch, 32);
  EXPECT_EQ(options.norm.eps, 0.25);
  EXPECT_EQ(options.train.epochs, Options().train.epochs);
  EXPECT_EQ(options.from_file.at("train.batch"), "test.ini: line 2");
  EXPECT_EQ(options.from_file.count("train.lr"), 0u);
}

TEST(Options, BatchPerRankReplacesBatchOfAnEarlierSource) {
  const Options per_rank = parse({"--train.batch_per_rank", "16"}, "[train]\nbatch = 32\n");
  EXPECT_EQ(global_batch(per_rank.train, 3), 48);
  EXPECT_EQ(to_ini(parse({}, to_ini(per_rank))), to_ini(per_rank));
  const Options batch = parse({"--train.batch", "32"}, "[train]\nbatch_per_rank = 16\n");
  EXPECT_EQ(global_batch(batch.train, 3), 32);
  const Options off = parse({"--train.batch_per_rank", "0"}, "[train]\nbatch = 32\n");
  EXPECT_EQ(global_batch(off.train, 3), 32);
  expect_usage({"--train.batch", "32", "--train.batch_per_rank", "16"}, {"train.batch is given"});
  expect_config("[train]\nbatch = 32\nbatch_per_rank = 16\n", {"line 3", "train.batch is given"});
}

struct BadValue {
  std::string key, value, expected;
};

const std::vector<BadValue>& bad_values() {
  static const std::vector<BadValue> table = {
      {"train.batch", "-1", "from 1 to"},
      {"train.batch", "0", "from 1 to"},
      {"train.batch", "4294967295", "from 1 to"},
      {"train.batch", "9223372036854775808", "64 bits"},
      {"train.batch", "0x10", "whole number"},
      {"train.batch", "1e3", "whole number"},
      {"train.batch", "64x", "whole number"},
      {"train.batch", "6 4", "whole number"},
      {"train.batch", "", "whole number"},
      {"train.batch_per_rank", "-1", "from 0 to"},
      {"train.epochs", "0", "from 1 to"},
      {"train.max_steps", "-2", "from -1 to"},
      {"train.lr", "nan", "finite"},
      {"train.lr", "inf", "finite"},
      {"train.lr", "-inf", "finite"},
      {"train.lr", "1e999", "range of a double"},
      {"train.lr", "0", "above 0"},
      {"train.lr", "fast", "a number"},
      {"train.lr", "1e+39", "float32"},
      {"train.lr", "1e-46", "float32"},
      {"train.weight_decay", "1e+39", "float32"},
      {"train.adam_eps", "1e-50", "float32"},
      {"train.adam_eps", "1e+39", "float32"},
      {"norm.eps", "1e+39", "float32"},
      {"norm.eps", "1e-50", "float32"},
      {"norm.momentum", "1e-50", "float32"},
      {"model.init_std", "1e+39", "float32"},
      {"train.decay", "weight", "did you mean 'weights'"},
      {"train.lr", "0.1f", "a number"},
      {"train.momentum", "1", "below 1"},
      {"train.momentum", "-0.1", "from 0"},
      {"train.optimizer", "adm", "sgd | adam | adamw"},
      {"train.optimizer", "adm", "did you mean 'adam'"},
      {"train.milestones", "10,10", "increasing"},
      {"train.milestones", "20,10", "increasing"},
      {"train.milestones", "10,x", "whole numbers"},
      {"train.beta1", "1", "below 1"},
      {"train.beta2", "1", "below 1"},
      {"train.adam_eps", "0", "above 0"},
      {"train.weight_decay", "-1", "at least 0"},
      {"train.clip", "-1", "at least 0"},
      {"train.gamma", "0", "above 0"},
      {"train.warmup_steps", "-1", "from 0"},
      {"train.lr_reference", "0", "from 1"},
      {"train.drop_last", "maybe", "true or false (yes, no, on, off, 1 and 0 will do"},
      {"norm.output", "true ; remark", "a comment behind a value begins with ' #'"},
      {"train.batch", "32 ; remark", "a comment behind a value begins with ' #'"},
      {"data.name", "synthetic  ; remark", "a comment behind a value begins with ' #'"},
      {"train.batch", "32, 128,512", "a study tries are written '32 | 128 | 512'"},
      {"norm.kind", "none, batch", "a study tries are written 'none | batch'"},
      {"train.lr", "0,01", "a decimal point is written '.'"},
      {"norm.batch", "1", "at least 2"},
      {"norm.batch", "-4", "at least 2"},
      {"norm.batch", "globl", "did you mean 'global'"},
      {"norm.momentum", "0", "above 0"},
      {"norm.momentum", "1.5", "at most 1"},
      {"norm.eps", "0", "above 0"},
      {"norm.kind", "instance", "none | batch | layer"},
      {"norm.kind", "sync", "sync BN is norm.kind = batch with norm.batch = global"},
      {"norm.kind", "local", "norm.kind = batch with norm.batch = global (local BN: local"},
      {"train.optimizer", "SGD", "did you mean 'sgd'"},
      {"model.dropout", "1", "below 1"},
      {"model.dropout", "-0.1", "from 0"},
      {"model.hidden", "128,,64", "whole numbers"},
      {"model.hidden", "128,0", "from 1 to 1048576"},
      {"model.hidden", "1048577", "from 1 to 1048576"},
      {"model.init_std", "0", "above 0"},
      {"data.limit", "-1", "from 0"},
      {"data.name", "emnist", "mnist | fashion-mnist | synthetic | idx"},
      {"data.classes", "-1", "from 0 to 65536"},
      {"data.classes", "1", "at least 2 classes"},
      {"data.classes", "65537", "from 0 to 65536"},
      {"data.label_offset", "-1", "from 0 to 65536"},
      {"data.validation", "0", "fraction"},
      {"data.validation", "1", "fraction"},
      {"data.validation", "train", "fraction"},
      {"data.validation", "nan", "fraction"},
      {"data.scale", "binary_", "unit | half | standard | binary"},
      {"data.augment", "flip", "none | crop | crop-flip"},
      {"seed.order", "-2", "from -1"},
      {"seed.grouping", "-2", "from -1"},
      {"run.seed", "-1", "from 0"},
      {"run.shards", "0", "from 1 to 4096"},
      {"run.threads", "4097", "from 0 to 4096"},
      {"run.check", "ful", "light | full"},
      {"run.timeout", "-1", "from 0"},
  };
  return table;
}

TEST(Options, AStreamsOwnSeedComesBeforeTheRuns) {
  Options options;
  options.run.seed = 7;
  const std::vector<std::pair<Stream, std::string>> streams = {
      {Stream::kInit, "seed.init"},
      {Stream::kOrder, "seed.order"},
      {Stream::kDropout, "seed.noise"},
      {Stream::kSplit, "seed.split"},
      {Stream::kGrouping, "seed.grouping"}};
  for (const auto& [stream, key] : streams) {
    EXPECT_EQ(seed_of(options, stream), 7u) << key;
    Options own = options;
    set_option(own, key, "0");
    for (const auto& [other, name] : streams) {
      EXPECT_EQ(seed_of(own, other), name == key ? 0u : 7u) << key << ", asked for " << name;
    }
  }
  EXPECT_EQ(seed_of(options, Stream::kSynthetic), 7u);
}

// Each in the file (78, with the line) and on the command line (64).
TEST(Options, ValuesThatAreRefused) {
  for (const auto& [key, value, expected] : bad_values()) {
    expect_usage({"--" + key, value}, {"--" + key + ": ", "'" + value + "'", expected});
    const size_t dot = key.find('.');
    const std::string line = key.substr(dot + 1) + " = " + value + "\n";
    expect_config("\n[" + key.substr(0, dot) + "]\n" + line,
                  {"line 3: " + key + ": ", "'" + value + "'", expected});
  }
}

TEST(Options, SettingsThatContradictEachOther) {
  expect_usage({"--train.schedule", "step"}, {"train.milestones", "schedule is step"});
  expect_usage({"--train.optimizer", "sgd", "--train.nesterov", "true", "--train.momentum", "0"},
               {"--train.nesterov", "train.momentum is 0"});
  std::string layers = "8";
  for (int i = 1; i < 64; ++i) layers += ",8";
  EXPECT_EQ(parse_sizes("model.hidden", parse({"--model.hidden", layers}).model.hidden).size(),
            64u);
  expect_usage({"--model.hidden", layers + ",8"}, {"model.hidden", "at most 64 layers"});
  expect_usage({"--data.name", "idx"}, {"data.dir", "which data.name = idx needs"});
  for (const std::string out : {"a#b", " a", "a ", "a\nb", "a\tb"}) {
    expect_usage({"--run.out", out}, {"--run.out", "control characters"});
  }
}

// `validate` lists the words of a key, and so does the table's help: they must not drift apart.
TEST(Options, HelpListsTheWordsThatAreAccepted) {
  size_t lists = 0;
  const Options defaults;
  for_each_option(defaults, [&](const std::string& key, const auto&, const char* help) {
    Options options;
    try {
      set_option(options, key, "zzz");
      validate(options);
    } catch (const UsageError& error) {
      const std::string message = error.what();
      if (message.find(" | ") == std::string::npos) return;
      ++lists;
      std::string words = message.substr(message.find("expected ") + 9);
      words = words.substr(0, words.find(','));
      for (size_t at = 0; at != std::string::npos; at = words.find(" | ", at + 1)) {
        const std::string word = words.substr(at == 0 ? 0 : at + 3);
        const std::string first = word.substr(0, word.find(' '));
        EXPECT_TRUE(std::regex_search(help, std::regex("\\b" + first + "\\b")))
            << key << " " << first;
      }
    }
  });
  EXPECT_EQ(lists, 18u);
}

TEST(Options, TheBoundOnWeightsFollowsTheData) {
  const Options options = parse({"--model.hidden", "32768,31968"});
  EXPECT_NO_THROW(validate_for_data(options, 784, 16));  // 2^30 weights
  for (const auto& [inputs, classes] : {std::pair(784, 17), std::pair(785, 16)}) {
    expect_error([&, in = inputs, out = classes] { validate_for_data(options, in, out); },
                 ExitCode::kUsage, {"--model.hidden", "at most 1073741824 weights"});
  }
}

void expect_ranks_error(const std::vector<std::string>& words, int ranks,
                        const std::vector<std::string>& parts) {
  SCOPED_TRACE(testing::PrintToString(words));
  const Options options = parse(words);
  expect_error([&] { validate_for_ranks(options, ranks); }, ExitCode::kUsage, parts);
}

TEST(Options, ScaledRateMustBeFinite) {
  const std::vector<std::string> huge = {
      "--norm.kind",          "none", "--run.dtype",    "float64", "--train.lr", "1e308",
      "--train.lr_reference", "1",    "--train.lr_rule"};
  for (const std::string rule : {"linear", "sqrt"}) {
    std::vector<std::string> words = huge;
    words.push_back(rule);
    expect_ranks_error(words, 1, {"--train.lr", "train.lr_rule = " + rule, "128", "1e+308"});
    words.insert(words.end(), {"--train.batch_per_rank", "1"});
    EXPECT_NO_THROW(validate_for_ranks(parse(words), 1)) << rule;  // at the reference batch
    expect_ranks_error(words, 4, {"--train.lr", "batch of 4"});
  }
  const Options in_file = parse({}, "[train]\nlr = 3e38\nlr_rule = linear\nlr_reference = 1\n");
  expect_error([&] { validate_for_ranks(in_file, 1); }, ExitCode::kConfig,
               {"line 2", "train.lr", "finite in float32"});
}

TEST(Options, HelpFitsTheTerminal) {
  std::istringstream help(help_text(train_program()));
  const std::string text = help.str();
  for (std::string line; std::getline(help, line);) EXPECT_LE(line.size(), 100u) << line;
  for (const char* part :
       {"mpirun -n 4 build/syncbn-train --config configs/notebook_adam.ini", "Flags", "[data]",
        "[model]", "[norm]", "[train]", "[run]", "--dry-run", "--print-config", "(=0.001)"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part;
  }
}

TEST(Options, EveryRankNeedsAShard) {
  EXPECT_NO_THROW(validate_for_ranks(parse({}), 16));
  expect_ranks_error({}, 17, {"run.shards", "17 ranks", "found '16'", "--run.reduce fast"});
  EXPECT_NO_THROW(validate_for_ranks(parse({"--run.reduce", "fast"}), 17));
}

TEST(Options, NormBatchTilesTheGlobalBatch) {
  for (int ranks = 1; ranks <= 4; ++ranks) {  // ranks need not divide B
    for (const std::string m : {"global", "local", "2", "16", "128"}) {
      EXPECT_NO_THROW(validate_for_ranks(parse({"--norm.batch", m}), ranks)) << m << " " << ranks;
    }
  }
  expect_ranks_error({"--norm.batch", "7"}, 2, {"--norm.batch", "128", "found 7", "is 8"});
  expect_ranks_error({"--norm.batch", "3"}, 2, {"is 2"});
  expect_ranks_error({"--norm.batch", "1000"}, 1, {"found 1000", "is 128"});
  // B = 8 × 3 ranks = 24, which 6 divides and 16 does not.
  const Options six = parse({"--norm.batch", "6", "--train.batch_per_rank", "8"});
  EXPECT_NO_THROW(validate_for_ranks(six, 3));
  expect_ranks_error({"--norm.batch", "16", "--train.batch_per_rank", "8"}, 3, {"24", "is 12"});
  expect_ranks_error({"--train.batch", "1"}, 1, {"--train.batch", "at least 2"});
  expect_ranks_error({"--train.batch", "31", "--norm.batch", "local"}, 4,
                     {"at least 32", "16 shards"});
  expect_ranks_error({"--train.batch", "7", "--norm.batch", "local", "--run.reduce", "fast"}, 4,
                     {"at least 8", "4 ranks"});
  expect_ranks_error({"--train.batch_per_rank", "1073741824"}, 2, {"--train.batch_per_rank"});
  for (const std::string kind : {"none", "layer"}) {
    const Options free = parse({"--norm.kind", kind, "--norm.batch", "7", "--train.batch", "1"});
    EXPECT_NO_THROW(validate_for_ranks(free, 2));
  }
}

}  // namespace
}  // namespace syncbn
