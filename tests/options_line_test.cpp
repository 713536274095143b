// The command line and its refusals: what is told to type, what is blamed, what a message shows.
#include <gtest/gtest.h>

#include "support/options_support.hpp"

namespace syncbn {
namespace {

TEST(CommandLine, FlagsAndConfigPath) {
  const CommandLine line = command_line({"--overwrite", "--config=a.ini", "--dry-run"});
  EXPECT_EQ(line.config, "a.ini");
  EXPECT_EQ(line.words, "syncbn-train --overwrite --config=a.ini --dry-run");
  EXPECT_TRUE(line.overwrite && line.dry_run);
  EXPECT_FALSE(line.help || line.version || line.print_config);
  const CommandLine others = command_line({"--version", "--print-config"});
  EXPECT_TRUE(others.version && others.print_config && !others.help);
  EXPECT_EQ(get_option(parse({"--model.hidden="}), "model.hidden"), "");
  EXPECT_EQ(get_option(parse({"--model.hidden", ""}), "model.hidden"), "");
}

TEST(CommandLine, CommandLineRefusals) {
  expect_usage({"mnist.ini"}, {"unexpected word 'mnist.ini'", "--config mnist.ini"});
  expect_usage({"--train.bacth", "64"}, {"'--train.bacth'", "did you mean '--train.batch'"});
  expect_usage({"--train.epoch", "1"}, {"'--train.epoch'", "'--train.epochs'"});  // no guessing
  expect_usage({"--overwrit"}, {"'--overwrite'"});
  expect_usage({"--lr", "1"}, {"'--train.lr'"});
  expect_usage({"--train.ba", "1"}, {"'--train.batch'"});
  expect_usage({"--qqqqqqqq", "1"}, {"--help lists"});
  expect_usage({"--train.lr", "1", "--train.lr", "2"}, {"--train.lr", "twice"});
  expect_usage({"--overwrite", "--overwrite"}, {"--overwrite", "twice"});
  expect_usage({"--train.lr"}, {"--train.lr", "needs a value"});
  expect_usage({"--train.lr", "--train.batch", "1"}, {"--train.lr", "needs a value"});
  expect_usage({"--config", ""}, {"--config"});
}

TEST(CommandLine, HelpLooksAtNothingElse) {
  for (const std::string help : {"-h", "--help"}) {
    for (const std::vector<std::string>& words :
         std::vector<std::vector<std::string>>{{help},
                                               {help, "--train.bacth", "64"},
                                               {"stray", help, "--config", "missing.ini"},
                                               {"--train.batch", help},
                                               {"--resume", "--overwrite", help, help}}) {
      SCOPED_TRACE(testing::PrintToString(words));
      const CommandLine line = command_line(words);
      EXPECT_TRUE(line.help);
      EXPECT_TRUE(line.settings.empty() && line.config.empty() && !line.resume);
    }
  }
}

// What users of other programs type, and what they are told to type.
TEST(CommandLine, RefusalsSayWhatToType) {
  expect_usage({"train.batch=64"}, {"'train.batch=64'", "'--train.batch=64'"});
  expect_usage({"+train.lr=1"}, {"'--train.lr=1'"});
  expect_usage({"--run.seed", "1", "lr=0.1"}, {"'lr=0.1'", "'--train.lr'"});
  expect_usage({"train.batch", "64"}, {"'--train.batch'"});
  expect_usage({"-lr", "0.1"}, {"'-lr'", "'--train.lr'"});
  expect_usage({"-n", "2"}, {"'-n'", "mpirun -n RANKS syncbn-train"});
  expect_usage({"-q"}, {"'-q'", "--key value", "--help"});
  expect_usage({"--train-batch", "64"}, {"'--train.batch'"});
  expect_usage({"--train_batch", "64"}, {"'--train.batch'"});
  expect_usage({"--batch", "64"}, {"'--train.batch'"});
  expect_usage({"--LR", "1"}, {"'--train.lr'"});
  expect_usage({"--learning-rate", "1"}, {"'--train.lr'"});
  expect_usage({"--resume=true"}, {"--resume", "takes no value", "'=true'"});
  expect_usage({"--dry-run", "yes"}, {"'yes'", "--dry-run takes no value"});
  expect_usage({"--model.hidden", "128,", "64"}, {"'64'", "--model.hidden '128, 64'"});
  expect_usage({"--study.seeds", "3"}, {"'--study.seeds'", "syncbn-study"});
  expect_usage({"--config="}, {"--config FILE"});
  expect_usage({"--train.lr"}, {"--train.lr VALUE"});
  expect_usage({"--"}, {"'--'", "--help lists"});
  EXPECT_EQ(parse({"--run.out=--x=y"}).run.out, "--x=y");
}

TEST(CommandLine, BooleansInAnyCase) {
  for (const char* yes : {"true", "True", "TRUE", "yes", "Yes", "on", "ON", "1"}) {
    EXPECT_TRUE(parse({"--norm.output", yes}).norm.output) << yes;
    EXPECT_TRUE(parse({}, concat("[norm]\noutput = ", yes, "\n")).norm.output) << yes;
  }
  for (const char* no : {"false", "False", "FALSE", "no", "No", "off", "OFF", "0"}) {
    EXPECT_FALSE(parse({"--train.drop_last", no}, "[train]\ndrop_last = true\n").train.drop_last)
        << no;
  }
}

// The value that the command line set is the cause, wherever the one that it clashes with stands.
TEST(CommandLine, AClashIsBlamedOnTheCommandLineAndNamesBoth) {
  const auto refused = [](const std::vector<std::string>& words, const std::string& config) {
    validate_for_ranks(parse(words, config), 2);
  };
  expect_error(
      [&] {
        refused({"--train.batch", "20"}, "[norm]\nbatch = 16\n");
      },
      ExitCode::kUsage,
      {"--train.batch does not go with test.ini: line 2: norm.batch: ", "20", "found 16"});
  expect_error(
      [&] {
        refused({"--norm.batch", "16"}, "[train]\nbatch = 20\n");
      },
      ExitCode::kUsage, {"--norm.batch: ", "20 (train.batch)", "found 16"});
  expect_error([&] { refused({}, "[train]\nbatch = 20\n[norm]\nbatch = 16\n"); }, ExitCode::kConfig,
               {"test.ini: line 4: norm.batch: "});
  expect_error([&] { refused({}, "[data]\nname = idx\n"); }, ExitCode::kConfig,
               {"line 2: data.name", "does not go with", "data.dir"});
  expect_error(
      [&] {
        refused({"--data.validation", "test"},
                "[data]\nvalidation = 0.1\n[run]\nkeep_best = true\n");
      },
      ExitCode::kUsage, {"--data.validation", "does not go with", "run.keep_best"});
  expect_error([&] { refused({}, "[train]\nschedule = step\n"); }, ExitCode::kConfig,
               {"test.ini: line 2: train.schedule does not go with train.milestones: "});
}

TEST(Quoted, ShowsNothingThatATerminalObeys) {
  EXPECT_EQ(quoted("größe é ∞ 日本"), "'größe é ∞ 日本'");
  const std::vector<std::string> hidden = {"\x1b",         "\n",           "\x7f",
                                           "\xC2\x9B",     "\xE2\x80\xAE", "\xE2\x81\xA6",
                                           "\xE2\x80\x8B", "\xEF\xBB\xBF", "\xF3\xA0\x80\x81"};
  for (const std::string& text : hidden) EXPECT_EQ(quoted("a" + text + "b"), "'a?b'") << text;
  // Bytes that are no UTF-8: a lone one, an overlong '/', a surrogate, one that is cut.
  EXPECT_EQ(quoted("a\xFFz"), "'a?z'");
  EXPECT_EQ(quoted("\xC0\xAF"), "'" + std::string(2, '?') + "'");
  EXPECT_EQ(quoted("\xED\xA0\x80"), "'" + std::string(3, '?') + "'");
  EXPECT_EQ(quoted("\xE2\x82"), "'" + std::string(2, '?') + "'");
  EXPECT_EQ(quoted(std::string(79, 'a') + "éb"), "'" + std::string(79, 'a') + "…'");
  EXPECT_EQ(printable("two\nlines\t\xC2\x9B"), "two\nlines\t?");
}

}  // namespace
}  // namespace syncbn
