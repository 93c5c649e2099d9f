#include "plugin/merge/merge_parts.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <stdexcept>

#include "plugin/formats/json_text.h"
#include "plugin/records/config_keys.h"
#include "plugin/run/run_ranks.h"

namespace moetap::plugin {
namespace {

namespace fs = std::filesystem;

void open_run(const std::string& run_dir, const MergeOptions& options, RunParts& parts,
              std::vector<std::string>& missing) {
  std::error_code error;
  if (!fs::is_directory(run_dir, error)) {
    throw std::runtime_error(run_dir + ": " +
                             (fs::exists(run_dir, error) ? "is no directory" : "there is no such directory") +
                             "; name the directory of a run");
  }
  const RunRanks ranks = find_run_ranks(run_dir);
  std::vector<int64_t> done, absent = ranks.unfinished;
  std::set_difference(ranks.done.begin(), ranks.done.end(), absent.begin(), absent.end(), std::back_inserter(done));
  const size_t first = parts.size();
  for (const int64_t rank : done) {
    parts.push_back(std::make_unique<RunPart>(run_dir, rank, ranks.done.size() + absent.size() == 1));
  }
  const int64_t world_size = done.empty() ? 1 : parts[first]->start().rank.world_size;
  for (int64_t rank = 0; rank < world_size; ++rank) {
    if (!std::binary_search(ranks.done.begin(), ranks.done.end(), rank) &&
        !std::binary_search(ranks.unfinished.begin(), ranks.unfinished.end(), rank)) {
      absent.push_back(rank);
    }
  }
  std::sort(absent.begin(), absent.end());
  if (absent.empty()) return;
  const std::string line = fmt::format("{}: rank {} of {} did not finish", run_dir, fmt::join(absent, ", "),
                                       std::max<int64_t>(world_size, absent.back() + 1));
  if (!options.allow_missing || done.empty()) {
    throw std::runtime_error(fmt::format("{}; if its process died, complete it with moetap recover {}{}", line, run_dir,
                                         done.empty() ? "" : ", or merge what is there with --allow-missing"));
  }
  missing.push_back(line + ": it is not in the merged run");
}

/// What decides whether two runs record the same: the device does not, and the seed only where it chooses.
bool must_agree(const ConfigKey& key, const Config& config) {
  if (key.free_on_resume || key.name == "device") return false;
  return key.name != "seed" || config.attention_sample > 0;
}

void check_same_config(const RunPart& part, const RunPart& first) {
  Config one = first.ending().config, other = part.ending().config;
  one.make_paths_absolute(first.start().directory);
  other.make_paths_absolute(part.start().directory);
  for (const ConfigKey& key : config_keys()) {
    if (!must_agree(key, one) || key.get(one) == key.get(other)) continue;
    throw std::runtime_error(
        fmt::format("key \"{}\" is {} in {} and {} in {}: runs that record differently cannot be "
                    "merged",
                    key.name, short_text(key.get(one)), first.name(), short_text(key.get(other)), part.name()));
  }
}

std::string model_text(const ModelDescription& model) {
  const std::string file = model.model_file.empty() ? "a model that was attached in memory" : model.model_file;
  return fmt::format("{} ({}{})", file, model.sha256.empty() ? "identity " : "SHA-256 ",
                     model.sha256.empty() ? model.identity : model.sha256);
}

void check_same_model(const RunPart& part, const RunPart& first) {
  if (part.models().empty() || first.models().empty()) return;
  const ModelDescription& one = *first.models().front();
  const ModelDescription& other = *part.models().front();
  if (one.identity == other.identity) return;
  throw std::runtime_error(fmt::format("{} is of {}, {} is of {}: runs of different models cannot be merged",
                                       first.name(), model_text(one), part.name(), model_text(other)));
}

void check_overlap(const RunParts& parts) {
  struct Known {
    int64_t sample = 0;
    size_t part = 0;
  };
  std::vector<Known> all;
  for (size_t i = 0; i < parts.size(); ++i) {
    for (const int64_t sample : parts[i]->samples()) all.push_back({sample, i});
  }
  std::sort(all.begin(), all.end(), [](const Known& a, const Known& b) {
    return a.sample != b.sample ? a.sample < b.sample : a.part < b.part;
  });
  const Known* found = nullptr;
  int64_t number = 0;
  for (size_t i = 1; i < all.size(); ++i) {
    if (all[i].sample != all[i - 1].sample) continue;
    if (found == nullptr) found = &all[i - 1];
    ++number;
  }
  if (found == nullptr) return;
  throw std::runtime_error(fmt::format(
      "sample {} is in {} and in {}{}: number them on with --relabel, or label samples so that each has its own number",
      found->sample, parts[found->part]->name(), parts[(found + 1)->part]->name(),
      number > 1 ? fmt::format(", as are {} more", number - 1) : ""));
}

}  // namespace

RunParts open_parts(const std::vector<std::string>& run_dirs, const MergeOptions& options,
                    std::vector<std::string>& missing) {
  RunParts parts;
  std::vector<fs::path> known;
  for (const std::string& run_dir : run_dirs) {
    std::error_code error;
    const fs::path path = fs::weakly_canonical(run_dir, error);
    if (std::find(known.begin(), known.end(), path) != known.end()) {
      throw std::runtime_error(run_dir + ": is named twice");
    }
    known.push_back(path);
    open_run(run_dir, options, parts, missing);
  }
  for (const auto& part : parts) {
    check_same_model(*part, *parts.front());
    check_same_config(*part, *parts.front());
  }
  return parts;
}

void number_samples(RunParts& parts, const MergeOptions& options) {
  if (options.relabel) {
    int64_t next = 0;
    for (const auto& part : parts) {
      part->sample_offset = next;
      if (!part->samples().empty()) next += part->samples().back() + 1;
    }
  } else {
    check_overlap(parts);
  }
  const auto smallest = [](const std::unique_ptr<RunPart>& part) {
    return part->samples().empty() ? std::numeric_limits<int64_t>::max() : part->renumbered(part->samples().front());
  };
  std::stable_sort(parts.begin(), parts.end(), [&](const auto& a, const auto& b) { return smallest(a) < smallest(b); });
}

}  // namespace moetap::plugin
