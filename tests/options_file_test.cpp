// Configuration files: what is read, what is refused, and the ones that are shipped.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <future>
#include <set>

#include "base/options.hpp"
#include "support/options_support.hpp"

namespace syncbn {
namespace {

namespace fs = std::filesystem;

TEST(ConfigText, IsReadAsWritten) {
  const Options options = parse({},
                                "\xEF\xBB\xBF[train]\r\n; a comment\r\n# another = 1\r\n"
                                "  batch =\t32  # of each step\r\nlr=0.5\r\n\r\n"
                                "[run] # where\r\nout = a=b; c\r\n[model]\nhidden =\n"
                                "[train]\nepochs = 2");
  EXPECT_EQ(options.train.batch, 32);
  EXPECT_EQ(options.train.lr, 0.5);
  EXPECT_EQ(options.train.epochs, 2);
  EXPECT_EQ(options.run.out, "a=b; c");
  EXPECT_EQ(options.model.hidden, "");
  EXPECT_EQ(options.set_keys.size(), 5u);
}

TEST(ConfigText, Refusals) {
  expect_config("[run]\nseed = 1\nout = a#b\n", {"line 3", "'#' inside the value of run.out"});
  expect_config("[run]\nout=#b\n", {"line 2", "'#'"});
  expect_config("[train]\nbatch = 1\n\nbatch = 2\n",
                {"line 4", "doubled", "train.batch", "line 2"});
  expect_config("[train]\nbach = 1\n", {"line 2", "'train.bach'", "mean 'train.batch'"});
  expect_config("[norm]\nhidden = 1\n", {"line 2", "'norm.hidden'"});
  expect_config("batch = 1\n", {"line 1", "'batch'", "'train.batch'"});
  expect_config("[trian]\n", {"line 1", "section 'trian'", "mean 'train'", "[norm]"});
  expect_config("[]\n", {"line 1", "unknown section ''. The sections are [data]", "[run]."});
  for (const char* section : {"study", "experiment rates", "tune"}) {
    expect_config(concat("[", section, "]\n"),
                  {"line 1", section, "of a study: run this file with syncbn-study."});
  }
  expect_config("[train]\nbatch 64\n", {"line 2", "'batch 64'", "key = value"});
  expect_config("[train\nbatch = 1\n", {"line 1"});
  expect_config("[run]\nout = " + std::string(5000, 'a') + "\n", {"line 2", "4096"});
  // The place stays with a value that is well formed and out of range, but not if it is overruled.
  EXPECT_EQ(parse({"--train.batch", "2"}, "[train]\nbatch = 0\n").train.batch, 2);
  const Options odd = parse({}, "[norm]\nbatch = 7\n");
  expect_error([&] { validate_for_ranks(odd, 2); }, ExitCode::kConfig, {"test.ini: line 2"});
}

// A fresh folder, removed with what is in it.
class ConfigFiles : public testing::Test {
 protected:
  ConfigFiles() {
    std::string path = (fs::temp_directory_path() / "syncbn_options_XXXXXX").string();
    folder_ = ::mkdtemp(path.data());
  }
  ~ConfigFiles() override { fs::remove_all(folder_); }
  std::string write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return (folder_ / name).string();
  }
  fs::path folder_;
};

TEST_F(ConfigFiles, ReadWholeOrRefused) {
  const std::string text = "[train]\r\nbatch = 32\r\n# größe\n";
  EXPECT_EQ(read_config(write("crlf.ini", text)), text);
  EXPECT_EQ(read_config(write("empty.ini", "")), "");
  EXPECT_EQ(read_config(write("full.ini", std::string(1 << 20, '#'))).size(), size_t{1} << 20);

  const auto read = [](const std::string& path) { return [path] { read_config(path); }; };
  const std::string missing = (folder_ / "missing.ini").string();
  expect_error(read(missing), ExitCode::kInputMissing, {missing, "No such file"});
  expect_error(read(folder_.string()), ExitCode::kInputMissing, {folder_.string(), "folder"});
  expect_error(read("/dev/zero"), ExitCode::kInputMissing, {"expected a regular file"});
  const std::string large = write("large.ini", std::string((1 << 20) + 1, '#'));
  expect_error(read(large), ExitCode::kConfig, {large, "1048577 bytes"});
  const std::string binary = write("nul.ini", std::string("[train]\nbatch = 3\0002\n", 21));
  expect_error(read(binary), ExitCode::kConfig, {binary, "byte 18"});
}

TEST_F(ConfigFiles, PipeIsRefusedAtOnce) {
  const std::string pipe = (folder_ / "pipe").string();
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  auto done = std::async(std::launch::async, [&] {
    expect_error([&] { read_config(pipe); }, ExitCode::kInputMissing, {"expected a regular file"});
  });
  EXPECT_EQ(done.wait_for(std::chrono::seconds(1)), std::future_status::ready);
  ::close(::open(pipe.c_str(), O_RDWR | O_NONBLOCK));  // lets a reader that waits go on
}

TEST(ShippedConfigs, AllParseAtAnyRankCount) {
  const fs::path folder = fs::path(__FILE__).parent_path().parent_path() / "configs";
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.is_directory()) continue;  // studies, of which tests/cli/test_study.py makes plans
    SCOPED_TRACE(entry.path().string());
    names.insert(entry.path().stem().string());
    const std::string text = read_config(entry.path().string());
    const Options options = parse_options(CommandLine(), text, entry.path().string());
    for (int ranks = 1; ranks <= 5; ++ranks) EXPECT_NO_THROW(validate_for_ranks(options, ranks));
    EXPECT_EQ(to_ini(parse({}, to_ini(options))), to_ini(options));
  }
  for (const char* name :
       {"main", "smoke", "notebook_adam", "notebook_adam_batches", "notebook_output_norm",
        "notebook_output_norm_batches", "notebook_sgd", "notebook_sgd_batches"}) {
    EXPECT_EQ(names.count(name), 1u) << name;
  }
}

}  // namespace
}  // namespace syncbn
