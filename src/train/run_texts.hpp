// The texts that tell one run from another: what a checkpoint or a run's metadata hold of them.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "train/checkpoint.hpp"
#include "train/description.hpp"

namespace syncbn {

constexpr const char* kStandard = "mean and deviation of data.scale = standard";
constexpr const char* kWeights = "weights.sha256";

using Texts = std::map<std::string, std::string>;

/// Options that may change when a run goes on: where it runs and how long, not what it computes.
bool may_change(const Options& options, const std::string& key);

/// An earlier version wrote no text for an option that it did not know: that is the default.
void add_missing_options(Texts& texts);

/// The mean and deviation that data.scale = standard took of what is not MNIST; empty: none.
std::string standard_of(const Setting& setting);

/// Throws Error(kInputDamaged) if `found`, at `path`, is of an earlier version, which scaled every
/// set by MNIST's mean and deviation: to go on would change the inputs in silence.
void check_standard(const Checkpoint& found, const Checkpoint& own, const std::string& path);

/// Replaces those of `texts` that a run's metadata.json tells; earlier versions tell less.
void take_metadata(Texts& texts, const nlohmann::json& metadata);

}  // namespace syncbn
