#pragma once

#include <ATen/ATen.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "plugin/formats/safetensors.h"
#include "tests/plugin/support/temporary_folder.h"

namespace moetap::plugin {

/// The numbers in a run directory, without what depends on the clock or on how a dump was cut into shards.
struct RunContents {
  std::vector<nlohmann::json> log;  // entries, without time_inference
  nlohmann::json summary, results;
  nlohmann::json manifest;  // not compared
  std::map<std::string, at::Tensor> probe;
  std::map<std::string, std::map<std::string, at::Tensor>> dump;  // series -> column -> all rows
};

inline std::string text_in(const std::filesystem::path& path) {
  return read_text_file(path.string());
}

inline void remove_times(nlohmann::json& json) {
  if (json.is_object()) json.erase("time_inference");
  if (json.is_structured()) {
    for (auto& [key, value] : json.items()) remove_times(value);
  }
}

/// Throws where a file does not parse.
inline RunContents read_run(const std::string& run_dir, const std::string& task = "log_metrics") {
  namespace fs = std::filesystem;
  const fs::path run = run_dir;
  RunContents contents;
  const auto log = nlohmann::json::parse(text_in(run / (task + ".json")));
  for (nlohmann::json entry : log.at("logs")) {
    remove_times(entry);
    contents.log.push_back(std::move(entry));
  }
  contents.summary = nlohmann::json::parse(text_in(run / "moetap" / "summary.json"));
  contents.results = nlohmann::json::parse(text_in(run / "results.json"));
  contents.manifest = nlohmann::json::parse(text_in(run / "moetap" / "manifest.json"));
  if (fs::exists(run / "moetap" / "probe.safetensors")) {
    contents.probe = read_safetensors((run / "moetap" / "probe.safetensors").string()).tensors;
  }
  std::map<std::string, std::string> shards;  // in order
  const fs::path dump = run / "moetap" / "dump" / "rank0";
  if (fs::exists(dump)) {
    for (const auto& entry : fs::directory_iterator(dump)) {
      const std::string stem = entry.path().stem().string();
      if (entry.path().extension() != ".safetensors") throw std::runtime_error("stray file " + entry.path().string());
      shards[stem] = stem.substr(0, stem.rfind('-'));
    }
  }
  for (const auto& [stem, series] : shards) {
    for (const auto& [name, rows] : read_safetensors((dump / (stem + ".safetensors")).string()).tensors) {
      at::Tensor& all = contents.dump[series][name];
      all = all.defined() ? at::cat({all, rows}) : rows;
    }
  }
  return contents;
}

/// What differs first; empty: nothing.
inline std::string difference(const RunContents& a, const RunContents& b) {
  if (a.log.size() != b.log.size()) {
    return "log entries: " + std::to_string(a.log.size()) + " and " + std::to_string(b.log.size());
  }
  for (size_t i = 0; i < a.log.size(); ++i) {
    if (a.log[i] != b.log[i]) return "log entry " + std::to_string(i) + ": " + a.log[i].dump() + "\n" + b.log[i].dump();
  }
  if (a.summary != b.summary) return "summary: " + a.summary.dump() + "\n" + b.summary.dump();
  if (a.results != b.results) return "results: " + a.results.dump() + " and " + b.results.dump();
  const auto tensors = [](const std::string& where, const auto& left, const auto& right) -> std::string {
    for (const auto* side : {&left, &right}) {
      for (const auto& [name, tensor] : *side) {
        if (!left.contains(name) || !right.contains(name)) return where + name + ": is in one of them";
      }
    }
    for (const auto& [name, tensor] : left) {
      if (!at::equal(tensor, right.at(name))) return where + name + ": differs";
    }
    return "";
  };
  if (auto found = tensors("probe ", a.probe, b.probe); !found.empty()) return found;
  for (const auto* side : {&a.dump, &b.dump}) {
    for (const auto& [series, columns] : *side) {
      if (!a.dump.contains(series) || !b.dump.contains(series)) return "dump " + series + ": is in one of them";
    }
  }
  for (const auto& [series, columns] : a.dump) {
    if (auto found = tensors("dump " + series + " ", columns, b.dump.at(series)); !found.empty()) return found;
  }
  return "";
}

}  // namespace moetap::plugin
