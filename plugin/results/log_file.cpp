#include "plugin/results/log_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <numeric>
#include <vector>

#include "plugin/formats/atomic_file.h"
#include "plugin/formats/json_text.h"
#include "plugin/results/json_keys.h"

namespace moetap::plugin {
namespace {

using nlohmann::ordered_json;

// The model's name for readers: that of its file, with "_" for the characters at which they split.
std::string model_name(const std::string& model_file) {
  std::string name = std::filesystem::path(model_file).stem().string();
  for (char& letter : name) {
    if (letter == ',' || letter == '=' || letter == '/') letter = '_';
  }
  return name.empty() ? "model" : name;
}

}  // namespace

std::vector<PlacedEntry> log_order(const RunJournal& journal, const SamplesFile& samples, LogEntries log_entries) {
  std::vector<PlacedEntry> order;
  order.reserve(journal.entries().size());
  for (size_t i = 0; i < journal.entries().size(); ++i) {
    const int64_t sample = journal.entries()[i].first_sample;
    const bool by_row = log_entries == LogEntries::kRow;
    const int64_t otherwise = by_row ? sample : static_cast<int64_t>(i);
    const int64_t doc_id = samples.doc_id(sample, otherwise);
    order.push_back({doc_id, i, by_row ? doc_id == sample : !samples.has(sample)});
  }
  const auto earlier = [](const PlacedEntry& a, const PlacedEntry& b) { return a.doc_id < b.doc_id; };
  // Samples mostly come in order, and a stable sort takes half as much memory again.
  if (!std::is_sorted(order.begin(), order.end(), earlier)) std::stable_sort(order.begin(), order.end(), earlier);
  return order;
}

LogWriter::LogWriter(const std::string& path, const std::string& time, const Counters& counters, const Config& config)
    : file_(path, AtomicFile::Readers::kOwner) {
  const ordered_json configs = {{keys::kTask.name, config.task}};
  ordered_json counted = ordered_json::object();
  for (const CounterInfo& count : kCounters) {
    if (count.in_log) counted[count.key.name] = counters.*count.member;
  }
  file_.write(fmt::format("{{{}: {{}}, {}: {}, {}: {}, {}: {},\n {}: [", quoted_text(keys::kArgs.name),
                          quoted_text(keys::kModelConfigs.name), compact_text(configs), quoted_text(keys::kTime.name),
                          quoted_text(time), quoted_text(keys::kMoetap.name), compact_text(counted),
                          quoted_text(keys::kLogs.name)));
}

void LogWriter::add(std::string_view entry) {
  file_.write(separator_);
  file_.write(entry);
  separator_ = ",\n";
}

void LogWriter::commit() {
  file_.write("\n ]}\n");
  file_.commit();
}

LogLosses write_log_file(const std::string& path, const std::string& time, const Counters& counters,
                         const LogLayout& layout, const RunJournal& journal, const SamplesFile& samples) {
  LogLosses losses;
  LogWriter file(path, time, counters, layout.config());
  for (const PlacedEntry& placed : log_order(journal, samples, layout.config().log_entries)) {
    const JournalEntry& place = journal.entries()[placed.entry];
    LogEntry entry(layout);
    for (const RunJournal::PartOfEntry& part : journal.parts(place)) {
      entry.add(part.part);
      entry.add_shared(part.shared);
    }
    ordered_json json = samples.fields(place.first_sample, placed.doc_id);
    entry.write_to(json, losses);
    file.add(compact_text(json));
  }
  file.commit();
  return losses;
}

void write_results_file(const std::string& path, const std::string& model_file, const Config& config) {
  const std::string name = model_name(model_file);
  const ordered_json json = {{keys::kResults.name, ordered_json::object()},
                             {keys::kModelConfigs.name,
                              {{keys::kModel.name, "moetap"},
                               {keys::kModelArgs.name, "moetap/" + name + "/" + name + ",method=" + config.method +
                                                           ",device=" + config.device},
                               {keys::kTask.name, config.task}}}};
  write_file_atomically(path, indented_text(json));
}

}  // namespace moetap::plugin
