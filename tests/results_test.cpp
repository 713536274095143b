// What a run leaves behind: whole files, metrics, safetensors; and its table of layers.
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <unistd.h>

#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <type_traits>
#include <vector>

#include "base/file.hpp"
#include "nn/network.hpp"
#include "support/close.hpp"
#include "support/files.hpp"
#include "support/idx_files.hpp"
#include "support/options_support.hpp"
#include "train/best.hpp"
#include "train/metrics.hpp"
#include "train/safetensors.hpp"

namespace syncbn {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// ---- files ----

TEST(ReadRegularFile, ReadsAnyBytesUpToTheLimit) {
  const TempFolder folder;
  const std::string path = folder.path() / "a", text = std::string("\0\xff\n", 3) + too_long();
  write_file(path, text);
  const FileBytes bytes =
      read_regular_file(path, "weights file", text.size(), ExitCode::kInputDamaged);
  EXPECT_EQ(std::string(bytes.data.get(), bytes.data.get() + bytes.size), text);
  expect_error(
      [&] { read_regular_file(path, "weights file", text.size() - 1, ExitCode::kInputDamaged); },
      ExitCode::kInputDamaged, {"weights file", path, "5003 bytes", "at most 5002"});
}

TEST(WriteFile, ReplacesTheWholeFile) {
  const TempFolder folder;
  const std::string path = folder.path() / "a";
  write_file(path, too_long());
  write_file(path, std::string("new\0text", 8));
  EXPECT_EQ(read_text(path), std::string("new\0text", 8));
  EXPECT_EQ(names_in(folder.path()), Names{"a"});
}

TEST(WriteFile, WhatStoodThereStaysWhenTheDiskIsFull) {
  const TempFolder folder;
  const std::string path = folder.path() / "a";
  write_file(path, "old");
  {
    const FullDisk full(kFull);
    expect_error([&] { write_file(path, too_long()); }, ExitCode::kWriteFailed,
                 {path, "cannot write"});
  }
  EXPECT_EQ(read_text(path), "old");
  EXPECT_EQ(names_in(folder.path()), Names{"a"});
}

TEST(WriteFile, SaysWhereItCannotWrite) {
  const TempFolder folder;
  const std::string missing = folder.path() / "no" / "a";
  expect_error([&] { write_file(missing, "x"); }, ExitCode::kWriteFailed,
               {missing, "No such file or directory"});
  fs::create_directory(folder.path() / "d");
  expect_error([&] { write_file(folder.path() / "d", "x"); }, ExitCode::kWriteFailed,
               {"directory"});
  EXPECT_EQ(names_in(folder.path()), Names{"d"});
}

TEST(WriteFile, ALeftoverOfAKilledRunIsNoObstacle) {
  const TempFolder folder;  // process ids come again, in containers above all
  const std::string path = folder.path() / "a";
  char host[256] = "";
  ASSERT_EQ(gethostname(host, sizeof host - 1), 0);
  write_text(concat(path, ".tmp-", host, "-", getpid()), too_long());
  write_file(path, "new");
  EXPECT_EQ(read_text(path), "new");
  EXPECT_EQ(names_in(folder.path()), Names{"a"});
}

TEST(LineFile, GrowsByWholeLinesAtOnce) {
  const TempFolder folder;
  const std::string path = folder.path() / "a";
  write_text(path, "of the run before\n");
  LineFile file(path);
  EXPECT_EQ(read_text(path), "");
  file.append("one");
  EXPECT_EQ(read_text(path), "one\n");
  file.append("two");
  EXPECT_EQ(read_text(path), "one\ntwo\n");
  const FullDisk full(kFull);
  expect_error([&] { file.append(too_long()); }, ExitCode::kWriteFailed, {path});
  expect_error([&] { LineFile(folder.path() / "no" / "a"); }, ExitCode::kWriteFailed, {"no/a"});
}

// ---- metrics ----

/// A row in which no two columns are alike.
MetricsRow distinct_row() {
  MetricsRow row;
  int64_t number = 1;
  for_each_column(row, [&](const char*, auto& value, const char*) {
    using Value = std::decay_t<decltype(value)>;
    value = static_cast<Value>(number++);
    if (std::is_floating_point_v<Value>) value /= 3;
  });
  row.rank_peak_memory_bytes = {7, 8};
  return row;
}

TEST(Metrics, ColumnsKeysAndFieldsAgree) {
  const TempFolder folder;
  const MetricsRow row = distinct_row();
  MetricsFiles files(folder.path(), {});
  EXPECT_EQ(lines_of(read_text(folder.path() / "metrics.csv")).size(), 1U)
      << "the header comes first";
  files.append(row);
  files.append({});
  const auto csv = lines_of(read_text(folder.path() / "metrics.csv"));
  const auto jsonl = lines_of(read_text(folder.path() / "metrics.jsonl"));
  ASSERT_EQ(csv.size(), 3U);
  ASSERT_EQ(jsonl.size(), 2U);

  const auto header = lines_of(csv[0], ','), values = lines_of(csv[1], ',');
  const Json object = Json::parse(jsonl[0]);
  ASSERT_EQ(header.size(), values.size());
  size_t column = 0;
  auto key = object.begin();
  for_each_column(row, [&](const char* name, const auto& value, const char* help) {
    EXPECT_EQ(header[column], name);
    EXPECT_EQ(key.key(), name);
    EXPECT_EQ(std::stod(values[column]), static_cast<double>(value)) << name;
    EXPECT_EQ(key->template get<std::decay_t<decltype(value)>>(), value) << name;
    EXPECT_STRNE(help, "") << name;
    ++column, ++key;
  });
  EXPECT_EQ(column, header.size());
  EXPECT_EQ(key.key(), "rank_peak_memory_bytes");
  EXPECT_EQ(key->get<std::vector<int64_t>>(), row.rank_peak_memory_bytes);
  EXPECT_EQ(Names(header.begin(), header.end()).size(), header.size()) << "a column twice";
  for (const char* name : {"epoch", "step", "samples", "seconds", "train_loss", "train_accuracy",
                           "val_loss", "val_accuracy", "val_error"}) {
    EXPECT_TRUE(object.contains(name)) << name;
  }
}

TEST(Metrics, WhatWasNotMeasuredIsEmptyNullOrADash) {
  const TempFolder folder;
  MetricsRow row;
  row.train_loss = std::numeric_limits<double>::quiet_NaN();
  MetricsFiles(folder.path(), {}).append(row);
  const auto csv = lines_of(read_text(folder.path() / "metrics.csv"));
  EXPECT_EQ(csv.at(0).substr(csv.at(0).size() - 40), "bytes,test_loss,test_accuracy,test_error")
      << "new columns come last";
  EXPECT_EQ(csv.at(1).substr(0, 11), "0,0,0,0,,0,");
  EXPECT_EQ(csv.at(1).substr(csv.at(1).size() - 4), "0,,,");
  const Json object = Json::parse(read_text(folder.path() / "metrics.jsonl"));
  EXPECT_TRUE(object.at("test_loss").is_null() && object.at("train_loss").is_null());
  EXPECT_EQ(console_row(row).size(), console_row(MetricsRow{}).size());
  EXPECT_NE(console_row(row).find("         -  "), std::string::npos) << console_row(row);
  EXPECT_EQ(console_header("test").size(), console_header("val").size());
  EXPECT_NE(console_header("test").find(" test loss "), std::string::npos);
}

TEST(Metrics, FilesThatACheckpointDoesNotKnowAreRefused) {
  const TempFolder folder;
  const std::string csv = "epoch,step\n1,10\n", jsonl = "{}\n";
  write_text(folder.path() / "metrics.csv", csv + "2,20\n");
  write_text(folder.path() / "metrics.jsonl", jsonl + "{}\n");
  const auto check = [&](size_t csv_bytes, size_t jsonl_bytes, int64_t rows) {
    MetricsFiles::check(folder.path(),
                        {static_cast<int64_t>(csv_bytes), static_cast<int64_t>(jsonl_bytes)}, rows);
  };
  check(csv.size(), jsonl.size(), 1);
  check(csv.size() + 5, 2 * jsonl.size(), 2);
  const auto refused = [&](const std::vector<std::string>& parts, auto... numbers) {
    expect_error([&] { check(numbers...); }, ExitCode::kInputDamaged, parts);
  };
  refused({"metrics.csv", "has 21 bytes", "counts on 22"}, csv.size() + 6, jsonl.size(), 1);
  refused({"metrics.csv", "expected 2 whole lines", "found 0 and a part"}, 3, jsonl.size(), 1);
  refused({"metrics.csv", "expected 2 whole lines", "found 1;"}, 11, jsonl.size(), 1);
  refused({"metrics.csv", "found 2 and a part"}, csv.size() + 1, jsonl.size(), 1);
  refused({"metrics.jsonl", "expected 1 whole lines", "found 2;"}, csv.size(), 6, 1);
  EXPECT_EQ(read_text(folder.path() / "metrics.csv"), csv + "2,20\n");
}

TEST(Best, HigherAccuracyThenLowerLossThenTheEarlierEpoch) {
  const BestEpoch first{1, 10, 0.5, 1.0};
  EXPECT_TRUE(is_better({2, 20, 0.6, 9.0}, first));
  EXPECT_FALSE(is_better({2, 20, 0.4, 0.1}, first));
  EXPECT_TRUE(is_better({2, 20, 0.5, 0.9}, first));
  EXPECT_FALSE(is_better({2, 20, 0.5, 1.1}, first));
  EXPECT_FALSE(is_better({2, 20, 0.5, 1.0}, first));
}

TEST(Metrics, AFileOfAnotherVersionKeepsItsColumns) {
  const TempFolder folder;
  const std::string earlier = "epoch,val_loss,of_a_later_version,step\n1,0.5,x,10\n";
  write_text(folder.path() / "metrics.csv", earlier + "2,0.25,y,20\n");
  write_text(folder.path() / "metrics.jsonl", "{}\n");
  MetricsRow row;
  row.epoch = 2;
  row.step = 20;
  row.val_loss = 0.125;
  MetricsFiles(folder.path(), {static_cast<int64_t>(earlier.size()), 3}).append(row);
  EXPECT_EQ(read_text(folder.path() / "metrics.csv"), earlier + "2,0.125,,20\n");
}

// ---- safetensors ----

TEST(Safetensors, HeaderAndBytesAreThoseOfTheFormat) {
  const at::Tensor matrix = torch::arange(6, torch::kFloat).view({2, 3}).t();  // not contiguous
  const std::vector<std::pair<std::string, at::Tensor>> tensors = {
      {"0.weight", matrix},
      {"1.running_mean", torch::tensor({0.1, 0.2, 0.3}, torch::kDouble)},
      {"1.num_batches_tracked", torch::tensor(int64_t{1} << 40)},
      {"none", torch::empty({0, 4}, torch::kFloat)}};
  const std::string file = to_safetensors(tensors, {{"format", "pt"}});

  uint64_t length = 0;
  ASSERT_GT(file.size(), sizeof length);
  std::memcpy(&length, file.data(), sizeof length);
  EXPECT_EQ(length % 8, 0U) << "the tensors' bytes start unaligned";
  ASSERT_LE(sizeof length + length, file.size());
  EXPECT_EQ(file[sizeof length], '{') << "the format demands it of the header's first byte";
  const Json header = Json::parse(file.substr(sizeof length, length));
  const std::string payload = file.substr(sizeof length + length);

  EXPECT_EQ(header["__metadata__"]["format"], "pt");
  EXPECT_EQ(header.size(), tensors.size() + 1);
  const char* dtypes[] = {"F32", "F64", "I64", "F32"};
  const std::vector<std::vector<int64_t>> shapes = {{3, 2}, {3}, {}, {0, 4}};
  size_t end = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto& [name, value] = tensors[i];
    const Json& entry = header[name];
    EXPECT_EQ(entry["dtype"], dtypes[i]);
    ASSERT_TRUE(entry["shape"].is_array());
    EXPECT_EQ(entry["shape"].get<std::vector<int64_t>>(), shapes[i]);
    const auto offsets = entry["data_offsets"].get<std::vector<size_t>>();
    ASSERT_EQ(offsets.size(), 2U);
    EXPECT_EQ(offsets[0], end) << "a hole or an overlap before " << name;
    end = offsets[1];
    const at::Tensor host = value.contiguous();
    EXPECT_EQ(payload.substr(offsets[0], end - offsets[0]),
              std::string(static_cast<const char*>(host.const_data_ptr()), host.nbytes()));
  }
  EXPECT_EQ(end, payload.size());
}

TEST(Safetensors, RefusesADtypeThatItHasNoNameFor) {
  EXPECT_THROW(to_safetensors({{"a", torch::ones({2}, torch::kBool)}}, {}), Error);
}

// ---- the table of layers: 784-256-10, norm after the activation and on the output ----

std::string table_of(const std::string& kind) {
  ModelOptions model;
  model.hidden = "256";
  NormOptions norm;
  norm.kind = kind;
  norm.position = "post";
  norm.output = true;
  return Network(model, norm, {784, 10, /*capacity=*/1, at::kFloat, at::kCPU}, {1, 1}).table();
}

void expect_line(const std::string& table, const std::vector<std::string>& words) {
  for (const std::string& line : lines_of(table)) {
    size_t at = 0;
    for (const std::string& word : words) {
      if (at != std::string::npos) at = line.find(word, at);
    }
    if (at != std::string::npos) return;
  }
  ADD_FAILURE() << "no line with " << testing::PrintToString(words) << " in\n" << table;
}

TEST(LayerTable, CountsAsKerasDoes) {
  const std::string table = table_of("batch");
  expect_line(table, {"0 (Linear)", "(n, 256)", "200,960"});
  expect_line(table, {"1 (ReLU)", "(n, 256)", "0"});
  expect_line(table, {"2 (BatchNorm1d)", "(n, 256)", "1,024"});
  expect_line(table, {"3 (Linear)", "(n, 10)", "2,570"});
  expect_line(table, {"4 (BatchNorm1d)", "(n, 10)", "40"});
  expect_line(table, {"Total parameters: 204,594"});
  expect_line(table, {"Trainable: 204,062"});
  expect_line(table, {"Not trainable", ": 532"});
}

TEST(LayerTable, WithoutNorm) {
  const std::string table = table_of("none");
  expect_line(table, {"Total parameters: 203,530"});
  expect_line(table, {"Trainable: 203,530"});
  expect_line(table, {"Not trainable", ": 0"});
  EXPECT_EQ(table.find("BatchNorm1d"), std::string::npos);
}

}  // namespace
}  // namespace syncbn
