#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "plugin/records/export.h"

namespace moetap::plugin {

enum class Attention { kOff, kStats, kFull };
enum class Dump { kNone, kIds, kTopk, kFull };
enum class DumpWeights { kF32, kF16 };
enum class Privacy { kNone, kSums };
enum class LogEntries { kRow, kForward };
enum class LogForwards { kMerged, kLast };
enum class Unlabelled { kNew, kFollow };
enum class OnOverflow { kBlock, kDrop };
enum class TokenMaskMeans { kAuto, kValid, kPadding, kAdditive };

/// How a session records. Each member has the name of its key in a configuration file; config_keys() and
/// `moetap run --help` say what each means.
struct MOETAP_API Config {
  std::string output_dir;
  std::string task = "log_metrics";
  std::string method = "forward";
  std::string device = "cpu";
  int64_t seed = 0;
  Attention attention = Attention::kOff;
  std::string attention_regions = "parts:5";
  int64_t attention_sample = 0;
  int64_t attention_limit_bytes = int64_t{1} << 30;
  Dump dump = Dump::kNone;
  DumpWeights dump_weights = DumpWeights::kF32;
  bool dump_router_input = false;
  Privacy privacy = Privacy::kNone;
  int64_t record_every = 1;
  int64_t max_forwards = 0;
  int64_t max_bytes = 0;
  std::string metrics_file;
  int64_t metrics_interval = 15;
  std::string tensorboard_dir;
  int64_t merge_wait = 0;
  std::string token_ids;
  std::string token_mask;
  TokenMaskMeans token_mask_means = TokenMaskMeans::kAuto;
  int64_t probe_tokens = 64;
  std::string log_component;
  LogEntries log_entries = LogEntries::kRow;
  LogForwards log_forwards = LogForwards::kMerged;
  Unlabelled unlabelled = Unlabelled::kNew;
  bool log_per_token = true;
  bool renumber_layers = false;
  bool libmoe_guide_layout = false;
  int64_t queue_bytes = int64_t{256} << 20;
  OnOverflow on_overflow = OnOverflow::kBlock;
  bool strict = false;
  int64_t check_every = 0;
  nlohmann::json hooks;  // null, a path (string) or a hook spec (array)
  std::string samples;
  bool resume = false;

  /// Reads a JSON object. `source` names it in messages ("config.json"). Throws std::invalid_argument with one line
  /// that names the key, what it expects, what it got, and the source: for an unknown key, a wrong type, a value that
  /// is none of the choices, a negative size, or two spellings of one key that disagree.
  static Config from_json(const nlohmann::json& object, const std::string& source);
  static Config from_json_text(const std::string& text, const std::string& source);
  static Config from_json_file(const std::string& path);

  /// Sets the keys that are given and leaves the others. Same errors as `from_json`.
  void update_from_json(const nlohmann::json& object, const std::string& source);
  void update_from_json_text(const std::string& text, const std::string& source);
  void update_from_json_file(const std::string& path);

  /// Sets one key. Same errors as `from_json`.
  void set(std::string_view key, const nlohmann::json& value, const std::string& source);
  /// Sets one key from the text of a command line option: "true", "64", "topk". Same errors as `from_json`.
  void set_from_text(std::string_view key, const std::string& text, const std::string& source);

  /// All keys with their values, as `from_json` reads them.
  nlohmann::ordered_json to_json() const;

  /// Makes output_dir, samples, metrics_file, tensorboard_dir and the path of a hook spec absolute: relative ones are
  /// taken from `directory`. A session calls it when it opens, since its host may change the working directory later.
  void make_paths_absolute(const std::filesystem::path& directory);

  /// Throws std::invalid_argument for what a session cannot do: a task that is no file name, regions or
  /// a hook spec that cannot be read, and what `privacy` forbids.
  void check() const;
};

/// Whether a run with this configuration has files of the dump.
inline bool writes_dump(const Config& config) {
  return config.dump != Dump::kNone || config.attention == Attention::kFull;
}

/// Whether anything may be written, even for a while, that tells what single tokens did.
inline bool tells_tokens(const Config& config) {
  return config.privacy == Privacy::kNone;
}

/// Tokens a layer whose probabilities the run keeps.
inline int64_t probed_tokens(const Config& config) {
  return tells_tokens(config) ? config.probe_tokens : 0;
}

}  // namespace moetap::plugin
