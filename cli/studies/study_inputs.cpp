#include "cli/studies/study_inputs.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>

#include "cli/studies/array_source.h"
#include "cli/studies/input_fingerprint.h"
#include "cli/studies/logits_source.h"
#include "cli/studies/r3_source.h"
#include "cli/studies/run_source.h"
#include "cli/terminal/command_error.h"
#include "plugin/run/run_dump.h"

namespace moetap::cli {
namespace {

namespace fs = std::filesystem;

std::string fingerprint_of_file(const std::string& path) {
  return input_fingerprint(fs::path(path).parent_path().string(), {fs::path(path).filename().string()});
}

}  // namespace

StudyInputs::StudyInputs(const std::vector<std::string>& paths, InputContext context)
    : context_(std::move(context)), paths_(paths) {
  describe_inputs();
  if (paths_.empty()) return;
  if (kind_ == Kind::kLogs) {
    for (size_t i = 0; i < paths_.size(); ++i) logs_.emplace_back(paths_[i], static_cast<int32_t>(i), 0);
  } else if (!has_runs()) {
    if (paths_.size() > 2) throw CommandError("one input of arrays, or two to compare");
    components_ = {"arrays"};
    if (!context_.options.component.empty() && context_.options.component != "arrays") {
      throw CommandError(
          fmt::format("--component: arrays have none but \"arrays\", got \"{}\"", context_.options.component));
    }
    if (!context_.options.group_by.empty() && context_.options.group_by != "phase") {
      throw CommandError("--group-by: arrays have no docs of samples; use a run");
    }
  } else {
    open_runs();
  }
}

StudyInputs::~StudyInputs() = default;

void StudyInputs::describe_inputs() {
  constexpr const char* kNames[] = {"run", "arrays", "log", "routed_ids", "logits", "parquet"};
  const auto add = [&](const std::string& path, const char* kind, const std::string& fingerprint) {
    about_.push_back({{"path", path}, {"kind", kind}, {"fingerprint", fingerprint}});
  };
  if (!paths_.empty()) kind_ = kind_of(paths_.front());
  for (const std::string& path : paths_) {
    if (kind_of(path) != kind_) {
      throw CommandError(
          fmt::format("{} and {} are different kinds of input; name inputs of one kind", paths_.front(), path));
    }
    add(path, kNames[static_cast<int>(kind_)], fingerprint_of(path));
  }
  const AnalyzeOptions& options = context_.options;
  for (const std::string& path : options.positive) add(path, "positive", fingerprint_of_file(path));
  for (const std::string& path : options.negative) add(path, "negative", fingerprint_of_file(path));
  for (const std::string& path : options.models) add(path, "model", fingerprint_of_file(path));
}

bool StudyInputs::takes(const std::string& path) {
  try {
    kind_of(path);
    return true;
  } catch (const CommandError&) {
    return false;
  }
}

StudyInputs::Kind StudyInputs::kind_of(const std::string& path) {
  std::error_code error;
  if (!fs::exists(path, error)) {
    throw CommandError(
        fmt::format("{}: there is no such file or directory; name a run, a folder of arrays or a log", path));
  }
  if (fs::is_directory(path, error)) {
    if (fs::is_directory(fs::path(path) / "moetap", error)) return Kind::kRuns;
    if (is_array_folder(path)) return Kind::kArrays;
    if (!R3Source::files_in(path).empty()) return Kind::kRoutedIds;
    if (is_parquet_folder(path)) return Kind::kParquet;
    throw CommandError(
        fmt::format("{}: is no run (it has no moetap/) and no folder of arrays (topk_idx.npy, "
                    "gate_scores.npy, token_types.npy, attn_weights.npy)",
                    path));
  }
  const std::string extension = fs::path(path).extension().string();
  if (extension == ".json") return Kind::kLogs;
  const std::vector<std::string> arrays = array_file_names();
  if (std::find(arrays.begin(), arrays.end(), fs::path(path).filename().string()) != arrays.end()) {
    throw CommandError(fmt::format("{}: name the folder that the arrays lie in", path));
  }
  if (extension == ".npy") return Kind::kRoutedIds;
  if (extension == ".safetensors" || extension == ".pt" || extension == ".pth") return Kind::kLogits;
  throw CommandError(
      fmt::format("{}: is no input of moetap analyze; name a run, a folder of arrays, a log (.json), logits "
                  "(.safetensors, .pt) or routed ids (.npy)",
                  path));
}

/// Of what analyses read: a folder may hold other things, the output of an analysis among them.
std::string StudyInputs::fingerprint_of(const std::string& path) const {
  if (kind_ == Kind::kRuns) return input_fingerprint(path, {"moetap"});
  if (kind_ == Kind::kArrays) return input_fingerprint(path, array_file_names());
  std::error_code error;
  if (fs::is_directory(path, error)) return input_fingerprint(path, {"."});
  return fingerprint_of_file(path);
}

void StudyInputs::open_runs() {
  const AnalyzeOptions& options = context_.options;
  std::vector<const plugin::RunReader*> runs;
  for (const std::string& path : paths_) {
    if (kind_ == Kind::kParquet) {
      imports_.push_back(std::make_unique<ParquetImport>(path, context_.scratch_folder, context_.check));
    }
    runs_.push_back(std::make_unique<plugin::RunReader>(imports_.empty() ? path : imports_.back()->run_dir()));
    runs.push_back(runs_.back().get());
  }
  if (!options.group_by.empty() && options.group_by != "phase") {
    groups_ = SampleGroups(runs, options.group_by, options.samples_file);
  }
  // The main component first: its tables lie in the output folder itself.
  std::vector<std::string> names;
  for (const auto& [name, layers] : runs_.front()->components()) names.push_back(name);
  if (names.empty()) throw CommandError(fmt::format("{}: no router reported in this run", paths_.front()));
  std::stable_partition(names.begin(), names.end(),
                        [&](const std::string& name) { return name == runs_.front()->main_component(); });
  if (!options.component.empty()) {
    if (std::find(names.begin(), names.end(), options.component) == names.end()) {
      throw CommandError(fmt::format("--component: {} has no routers in \"{}\"; it has some in {}", paths_.front(),
                                     options.component, fmt::join(names, ", ")));
    }
    names = {options.component};
  }
  const auto dumped = [&](const std::string& name) {
    return std::all_of(runs.begin(), runs.end(),
                       [&](const plugin::RunReader* run) { return plugin::has_dump(*run, name); });
  };
  std::copy_if(names.begin(), names.end(), std::back_inserter(components_), dumped);
  for (size_t i = 0; i < runs_.size(); ++i) {
    int32_t number = 0;
    for (const int64_t rank : runs_[i]->ranks()) {
      const fs::path log = fs::path(runs_[i]->log_folder(rank)) / (runs_[i]->task() + ".json");
      std::error_code error;
      if (fs::exists(log, error)) logs_.emplace_back(log.string(), static_cast<int32_t>(i), number++);
    }
  }
}

bool StudyInputs::has_tokens() const {
  return has_runs() ? !components_.empty() : kind_ != Kind::kLogs && paths_.size() == 1;
}

bool StudyInputs::is_pair() const {
  return paths_.size() == 2 && kind_ != Kind::kLogs && !components_.empty();
}

const TokenSource& StudyInputs::tokens(const std::string& component) {
  std::vector<size_t> all;
  for (size_t i = 0; i < paths_.size(); ++i) all.push_back(i);
  auto& source = sources_[{component, all}];
  if (!source) source = open(component, all, TokenIndex::SampleOrder::kBySource);
  return *source;
}

const TokenSource& StudyInputs::side(const std::string& component, size_t which) {
  auto& source = sides_[{component, which}];
  if (!source) source = open(component, {which}, TokenIndex::SampleOrder::kByNumber);
  return *source;
}

std::vector<std::pair<std::string, std::string>> StudyInputs::layers_of(size_t which) {
  std::vector<std::pair<std::string, std::string>> layers;
  if (has_runs()) {
    for (const auto& [component, of_component] : runs_[which]->components()) {
      for (const plugin::ReadLayer& layer : of_component) layers.emplace_back(component, layer.layer);
    }
    return layers;
  }
  for (const std::string& component : components_) {
    for (const studies::LayerShape& layer : side(component, which).shape().layers) {
      layers.emplace_back(component, layer.id);
    }
  }
  return layers;
}

std::unique_ptr<TokenSource> StudyInputs::open(const std::string& component, const std::vector<size_t>& which,
                                               TokenIndex::SampleOrder order) {
  const AnalyzeOptions& options = context_.options;
  if (kind_ == Kind::kArrays) {
    const auto definitions =
        options.is_notebook() ? studies::Definitions::kNotebook : studies::Definitions::kRecommended;
    ArrayFiles files = open_arrays(paths_[which.front()], definitions);
    if (options.is_notebook()) notebook_padding_ = notebook_padding(files);
    return std::make_unique<ArraySource>(std::move(files), options.gate_option(), options.is_notebook());
  }
  if (kind_ == Kind::kLogits) return std::make_unique<LogitsSource>(paths_[which.front()], options.top_k);
  if (kind_ == Kind::kRoutedIds) {
    std::error_code error;
    const std::string& path = paths_[which.front()];
    std::vector<std::string> files =
        fs::is_directory(path, error) ? R3Source::files_in(path) : std::vector<std::string>{path};
    return std::make_unique<R3Source>(std::move(files), options.num_experts, context_.check);
  }
  std::vector<const plugin::RunReader*> runs;
  for (const size_t run : which) runs.push_back(runs_[run].get());
  RunSourceOptions of_source;
  of_source.gate = options.gate_option();
  of_source.group_by_phase = options.group_by == "phase";
  of_source.groups = options.group_by.empty() || of_source.group_by_phase ? nullptr : &groups_;
  of_source.may_miss_rows = kind_ == Kind::kParquet;
  of_source.sample_order = order;
  of_source.scratch_folder = context_.scratch_folder;
  of_source.check = context_.check;
  return std::make_unique<RunSource>(std::move(runs), component, std::move(of_source));
}

}  // namespace moetap::cli
