// Shared by the tests of the options: parsing from words and texts, and expecting a refusal.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/options.hpp"

namespace syncbn {

inline CommandLine command_line(const std::vector<std::string>& words) {
  std::vector<const char*> argv = {"syncbn-train"};
  for (const std::string& word : words) argv.push_back(word.c_str());
  return parse_command_line(static_cast<int>(argv.size()), argv.data());
}

inline Options parse(const std::vector<std::string>& words, const std::string& config = "") {
  return parse_options(command_line(words), config, "test.ini");
}

/// Expects that `act` throws an error with this code whose message holds each of the parts.
template <class Act>
void expect_error(Act&& act, ExitCode code, const std::vector<std::string>& parts) {
  try {
    act();
    ADD_FAILURE() << "no error; expected one that says: " << testing::PrintToString(parts);
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(code)) << message;
    for (const std::string& part : parts) {
      EXPECT_NE(message.find(part), std::string::npos) << "no '" << part << "' in: " << message;
    }
  }
}

inline void expect_usage(const std::vector<std::string>& words,
                         const std::vector<std::string>& parts) {
  SCOPED_TRACE(testing::PrintToString(words));
  expect_error([&] { parse(words); }, ExitCode::kUsage, parts);
}

inline void expect_config(const std::string& config, std::vector<std::string> parts) {
  SCOPED_TRACE(config.substr(0, 200));
  parts.emplace_back("test.ini");
  expect_error([&] { parse({}, config); }, ExitCode::kConfig, parts);
}

}  // namespace syncbn
