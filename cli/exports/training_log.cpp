#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "cli/exports/export_format.h"
#include "cli/terminal/command_error.h"
#include "plugin/formats/atomic_file.h"
#include "plugin/formats/json_text.h"
#include "plugin/results/samples_file.h"

namespace moetap::cli {
namespace {

constexpr int64_t kBatchTokens = 1 << 13;

/// One line of the log: an epoch.
std::string epoch_line(const plugin::RunReader& run, const std::string& component, size_t epoch) {
  const auto found = run.components().find(component);
  if (found == run.components().end()) {
    throw CommandError(fmt::format("{}: has no routers in {}", run.path(), component));
  }
  std::vector<int64_t> load;
  double entropy = 0, tokens = 0;
  for (const plugin::ReadLayer& layer : found->second) {
    if (!load.empty() && load.size() != layer.selected.size()) {
      throw CommandError(fmt::format("{}: layers of {} have {} and {} experts: one utilization needs the same number",
                                     run.path(), component, load.size(), layer.selected.size()));
    }
    load.resize(layer.selected.size());
    for (size_t e = 0; e < load.size(); ++e) load[e] += layer.selected[e];
    entropy += layer.entropy;
    tokens += static_cast<double>(layer.tokens);
  }
  if (tokens == 0) throw CommandError(fmt::format("{}: the run is empty: no router saw a token", run.path()));
  const auto all = static_cast<double>(std::accumulate(load.begin(), load.end(), int64_t{0}));
  nlohmann::ordered_json line;
  line["epoch"] = epoch;
  line["routing_acc"] = nullptr;
  line["entropy"] = entropy / static_cast<double>(found->second.size());
  line["utilization"] = nlohmann::ordered_json::array();
  for (const int64_t count : load) line["utilization"].push_back(static_cast<double>(count) / all);
  return plugin::compact_text(line) + "\n";
}

/// The category of each sample, in their order; empty: there is no file, or it names none. Throws std::runtime_error
/// if the file is damaged.
std::vector<std::string> categories_of(const plugin::RunReader& run) {
  const std::string path = run.samples_file();
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return {};
  const plugin::SamplesFile samples(path);
  std::vector<std::string> categories;
  bool any = false;
  for (int64_t sample = 0; sample < samples.size(); ++sample) {
    const auto doc = samples.given(sample).value("doc", nlohmann::ordered_json());
    const auto category = doc.is_object() ? doc.value("category", nlohmann::ordered_json()) : nlohmann::ordered_json();
    categories.push_back(category.is_string() ? category.get<std::string>() : "");
    any = any || !categories.back().empty();
  }
  return any ? categories : std::vector<std::string>();
}

struct Affinity {
  std::vector<double> sums;  // [E]
  double count = 0;
};

void write_affinity(const ExportJob& job, const std::string& component) {
  const std::vector<std::string> categories = categories_of(job.run());
  const std::string why = categories.empty()                        ? "no doc.category of the samples is known"
                          : job.run().config_text("dump") != "full" ? "the last run has no --dump full"
                                                                    : "";
  if (!why.empty()) {
    job.notices.push_back("router_affinity_matrix.csv is left out: " + why);
    return;
  }
  const plugin::ComponentReader reader = open_component(job, component);
  std::map<std::string, Affinity> classes;
  std::vector<plugin::TokenLabel> labels(kBatchTokens);
  std::vector<float> probabilities;
  for (const plugin::ReadLayer& layer : layers_with(job, reader, component, "logits")) {
    const int64_t num_experts = reader.width(layer.layer, "logits");
    for (int64_t first = 0; first < reader.num_tokens(); first += kBatchTokens) {
      job.check();
      const int64_t n = std::min(kBatchTokens, reader.num_tokens() - first);
      reader.read_labels(first, n, labels.data());
      probabilities.resize(static_cast<size_t>(n * num_experts));
      reader.read_reals(layer.layer, "logits", first, n, num_experts, probabilities.data());
      softmax_rows(probabilities.data(), n, num_experts);
      for (int64_t i = 0; i < n; ++i) {
        const int64_t sample = labels[static_cast<size_t>(i)].sample;
        const float* row = probabilities.data() + i * num_experts;
        if (sample < 0 || sample >= static_cast<int64_t>(categories.size()) || row[0] != row[0]) continue;
        const std::string& category = categories[static_cast<size_t>(sample)];
        if (category.empty()) continue;
        Affinity& affinity = classes[category];
        affinity.sums.resize(static_cast<size_t>(num_experts));
        for (int64_t e = 0; e < num_experts; ++e) affinity.sums[static_cast<size_t>(e)] += row[e];
        ++affinity.count;
      }
    }
  }
  plugin::AtomicFile file(job.output + "/router_affinity_matrix.csv");
  std::string names;
  for (const auto& [name, affinity] : classes) {
    std::string line;
    for (const double sum : affinity.sums) line += fmt::format("{}{}", line.empty() ? "" : ",", sum / affinity.count);
    file.write(line + "\n");
    names += (names.empty() ? "" : ", ") + name;
  }
  file.commit();
  job.results.push_back("router_affinity_matrix.csv: rows are " + names);
}

}  // namespace

void export_training_log(const ExportJob& job) {
  const std::string component = job.options.component.empty() ? job.run().main_component() : job.options.component;
  plugin::AtomicFile file(job.output + "/training_log.txt");
  for (size_t i = 0; i < job.runs.size(); ++i) file.write(epoch_line(job.runs[i], component, i + 1));
  file.commit();
  // Of the last epoch, which is the model as it is now.
  const std::vector<plugin::RunReader> last{job.runs.back()};
  write_affinity({last, job.options, job.output, job.scratch_folder, job.check, job.notices, job.results}, component);
  job.results.push_back(fmt::format("{}: {} epochs", component, job.runs.size()));
}

}  // namespace moetap::cli
