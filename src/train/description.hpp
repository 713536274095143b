// What a run says about itself: the tables on the console, metadata.json, and --version.
#pragma once

#include <optional>
#include <string>

#include "base/options.hpp"
#include "comm/runtime.hpp"
#include "data/dataset.hpp"
#include "train/best.hpp"
#include "train/trainer.hpp"

namespace syncbn {

/// Everything that a run was set up with.
struct Setting {
  const Options& options;
  const Runtime& runtime;
  const Placement& placement;
  const ThreadPlan& threads;
  const Dataset& data;
  const Trainer& trainer;
  const std::string& command;  ///< the command line, as typed
  // What is known once the run has begun.
  std::string started = {};         ///< as `now_utc` gives it; a resumed run keeps its first start
  std::string weights_sha256 = {};  ///< of the file that it began with; empty: none
  std::optional<BestEpoch> best = {};  ///< with run.keep_best
};

/// What is measured after each epoch: "test", or "validation" for a part of the training set.
std::string measured_on(const Options& options);

/// The tables printed before the first step: B, M, R and what follows from them, the learning rate
/// after its rule, where it runs, and the layers. Notes come as lines of their own.
std::string describe(const Setting& setting);

/// metadata.json: status, versions, hosts, ranks, devices, threads, seed, data digests, B, M,
/// command, times. Nothing of the environment but a short list of names.
std::string metadata_json(const Setting& setting, const std::string& status);

/// This program and every library that it runs with, one per line.
std::string version_text();
/// The same as a JSON object.
std::string versions_json();

/// The time as "2026-01-31T12:00:00Z".
std::string now_utc();

}  // namespace syncbn
