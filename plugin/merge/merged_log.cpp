#include "plugin/merge/merged_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "plugin/formats/random_access_file.h"
#include "plugin/results/json_keys.h"
#include "plugin/results/log_file.h"

namespace moetap::plugin {
namespace {

/// The log of one part, each entry on a line of its own.
class PartLog {
 public:
  explicit PartLog(const RunPart& part)
      : path_((part.paths().log / (part.ending().config.task + ".json")).string()),
        file_(std::make_unique<RandomAccessFile>(path_)) {
    std::ifstream stream(path_, std::ios::binary);
    std::string line;
    int64_t begin = 0;
    for (int64_t number = 0; std::getline(stream, line); ++number) {
      const bool is_entry = number >= 2 && line.starts_with('{');
      if (is_entry || !begins_.empty()) begins_.push_back(begin);
      begin += static_cast<int64_t>(line.size()) + 1;
      if (!begins_.empty() && !is_entry) break;
    }
    const size_t found = begins_.empty() ? 0 : begins_.size() - 1;
    if (stream.bad() || found != part.entries().size()) {
      throw std::runtime_error(
          fmt::format("{}: has {} entries, the run recorded {}: it was changed", path_, found, part.entries().size()));
    }
  }

  std::string entry(size_t number) const {
    const int64_t begin = begins_.at(number);
    std::string text = file_->read(begin, begins_.at(number + 1) - begin);
    while (!text.empty() && (text.back() == '\n' || text.back() == ',')) text.pop_back();
    return text;
  }

  /// The entry with another `doc_id`, which it begins with.
  std::string entry(size_t number, int64_t doc_id, int64_t new_doc_id) const {
    std::string text = entry(number);
    const std::string begin = fmt::format("{{\"doc_id\":{},", doc_id);
    if (!text.starts_with(begin)) {
      throw std::runtime_error(
          fmt::format("{}: entry {} is not that of doc_id {}: it was changed", path_, number, doc_id));
    }
    return doc_id == new_doc_id ? text : fmt::format("{{\"doc_id\":{},{}", new_doc_id, text.substr(begin.size()));
  }

 private:
  std::string path_;
  std::unique_ptr<RandomAccessFile> file_;
  std::vector<int64_t> begins_;  // of the entries' lines, and of the line behind them
};

struct MergedEntry {
  int64_t doc_id = 0;
  int64_t first_sample = 0;
  uint32_t part = 0;
  uint32_t number = 0;  // in the part's log
};

std::vector<MergedEntry> merged_order(const RunParts& parts, LogEntries log_entries) {
  std::vector<MergedEntry> all;
  for (size_t i = 0; i < parts.size(); ++i) {
    const std::vector<RunPart::Entry>& entries = parts[i]->entries();
    for (size_t n = 0; n < entries.size(); ++n) {
      const bool follows_sample = entries[n].numbered && log_entries == LogEntries::kRow;
      all.push_back({follows_sample ? parts[i]->renumbered(entries[n].doc_id) : entries[n].doc_id,
                     parts[i]->renumbered(entries[n].first_sample), static_cast<uint32_t>(i),
                     static_cast<uint32_t>(n)});
    }
  }
  if (log_entries == LogEntries::kForward) {
    std::sort(all.begin(), all.end(), [](const MergedEntry& a, const MergedEntry& b) {
      return std::tie(a.first_sample, a.part, a.number) < std::tie(b.first_sample, b.part, b.number);
    });
    for (size_t i = 0; i < all.size(); ++i) {
      if (parts[all[i].part]->entries()[all[i].number].numbered) all[i].doc_id = static_cast<int64_t>(i);
    }
  }
  std::sort(all.begin(), all.end(), [](const MergedEntry& a, const MergedEntry& b) {
    return std::tie(a.doc_id, a.first_sample, a.part, a.number) < std::tie(b.doc_id, b.first_sample, b.part, b.number);
  });
  return all;
}

/// Throws unless the part's log names each layer as the merged one does.
void check_layout(const RunState& state, const LogLayout& layout, const RunPart& part) {
  if (part.entries().empty()) return;
  // The part's own tables: its layers, and those of its methods that never reported.
  LayerTable routers, attention(hooks::HookKind::kAttention);
  std::vector<std::pair<std::string, std::string>> methods;
  for (const Frame& frame : part.descriptions()) {
    const auto text = nlohmann::json::parse(frame.payload);
    const auto instance = text.at(keys::kInstance.name).get<std::string>();
    if (frame.kind == kMethodRan) methods.emplace_back(instance, text.at(keys::kMethod.name).get<std::string>());
    if (frame.kind != kHookPlaced) continue;
    const auto model = std::find_if(part.models().begin(), part.models().end(),
                                    [&](const auto& known) { return known->instance == instance; });
    const auto hook = text.at(keys::kHook.name).get<int64_t>();
    const bool is_router = (*model)->hooks.at(static_cast<size_t>(hook)).kind == hooks::HookKind::kRouter;
    (is_router ? routers : attention)
        .place(**model, hook, text.at(keys::kNumExperts.name).get<int64_t>(), is_router ? &attention : &routers);
  }
  for (const auto& model : part.models()) {
    for (const auto& [instance, method] : methods) {
      if (instance != model->instance) continue;
      routers.add_silent(*model, method, &attention);
      if (state.records(hooks::HookKind::kAttention)) attention.add_silent(*model, method, &routers);
    }
  }
  const LogLayout own(state.config, {routers, attention});
  if (own.log_component() != layout.log_component()) {
    throw std::runtime_error(fmt::format(
        "{}: its log shows the component \"{}\", that of the merged run \"{}\": the runs recorded other components, so "
        "these logs cannot be merged; log_component chooses one",
        part.name(), own.log_component(), layout.log_component()));
  }
  for (size_t place = 0; place < part.routers.size(); ++place) {
    if (own.key(place) == layout.key(part.routers[place])) continue;
    throw std::runtime_error(
        fmt::format("{}: layer {} of {} has the key {} in its log and {} in the merged one, so "
                    "these logs cannot be merged",
                    part.name(), routers.layers()[place].layer, routers.layers()[place].component,
                    own.key(place).value_or("none"), layout.key(part.routers[place]).value_or("none")));
  }
}

}  // namespace

void write_merged_log(const std::string& path, const std::string& time, const Counters& counters, const RunState& state,
                      const LogLayout& layout, const RunParts& parts, SumsWriter& sums,
                      const std::function<void()>& check) {
  std::vector<PartLog> logs;
  for (const auto& part : parts) {
    check_layout(state, layout, *part);
    logs.emplace_back(*part);
  }
  const bool by_row = state.config.log_entries == LogEntries::kRow;
  LogWriter file(path, time, counters, state.config);
  for (const MergedEntry& merged : merged_order(parts, state.config.log_entries)) {
    check();
    const RunPart& part = *parts[merged.part];
    const RunPart::Entry& entry = part.entries()[merged.number];
    file.add(logs[merged.part].entry(merged.number, entry.doc_id, merged.doc_id));
    LoggedSamples logged{merged.doc_id, entry.numbered, {merged.first_sample}};
    if (!by_row) {
      logged.samples = part.samples_of(entry);
      for (int64_t& sample : logged.samples) sample = part.renumbered(sample);
    }
    sums.add(logged);
  }
  file.commit();
}

}  // namespace moetap::plugin
