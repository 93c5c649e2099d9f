#pragma once

#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "cli/studies/analyze_options.h"
#include "cli/studies/libmoe_log.h"
#include "cli/studies/parquet_import.h"
#include "cli/studies/sample_groups.h"
#include "cli/studies/token_index.h"
#include "cli/studies/token_source.h"
#include "plugin/run/run_reader.h"

namespace moetap::cli {

/// What reading an input needs beside its path.
struct InputContext {
  const AnalyzeOptions& options;
  std::string scratch_folder;
  std::function<void()> check;  // called now and then; may throw
};

/// The inputs of one analysis. Opening looks at headers only; the sources read labels when they are asked for. Throws
/// CommandError with one line: an input that is none, inputs that do not go together, no component of the name.
class StudyInputs {
 public:
  StudyInputs(const std::vector<std::string>& paths, InputContext context);
  ~StudyInputs();

  /// True for a path that is an input: a run, arrays, a log, logits, routed ids, Parquet.
  static bool takes(const std::string& path);

  /// Each input's path, kind and fingerprint: what partials must agree in.
  const nlohmann::ordered_json& about() const { return about_; }
  size_t num_inputs() const { return paths_.size(); }
  /// Names of the components, those of --component alone.
  const std::vector<std::string>& components() const { return components_; }
  bool is_arrays() const { return kind_ == Kind::kArrays; }
  /// One input that has tokens: all runs together, or the arrays.
  bool has_tokens() const;
  const TokenSource& tokens(const std::string& component);
  /// Two inputs with tokens, to compare; else false.
  bool is_pair() const;
  const TokenSource& side(const std::string& component, size_t which);
  /// (component, layer) of all that an input says it has, of a run also what it has no dump of.
  std::vector<std::pair<std::string, std::string>> layers_of(size_t which);
  const std::string& path(size_t which) const { return paths_[which]; }
  const std::vector<LibMoeLog>& logs() const { return logs_; }
  int32_t padding_of_notebook() const { return notebook_padding_; }

 private:
  enum class Kind { kRuns, kArrays, kLogs, kRoutedIds, kLogits, kParquet };

  static Kind kind_of(const std::string& path);
  void describe_inputs();
  std::string fingerprint_of(const std::string& path) const;
  void open_runs();
  std::unique_ptr<TokenSource> open(const std::string& component, const std::vector<size_t>& which,
                                    TokenIndex::SampleOrder order);

  InputContext context_;
  std::vector<std::string> paths_;
  Kind kind_ = Kind::kRuns;
  nlohmann::ordered_json about_ = nlohmann::ordered_json::array();
  bool has_runs() const { return kind_ == Kind::kRuns || kind_ == Kind::kParquet; }
  std::vector<std::unique_ptr<ParquetImport>> imports_;
  std::vector<std::unique_ptr<plugin::RunReader>> runs_;
  SampleGroups groups_;
  std::vector<std::string> components_;
  std::vector<LibMoeLog> logs_;
  int32_t notebook_padding_ = -1;
  std::map<std::pair<std::string, std::vector<size_t>>, std::unique_ptr<TokenSource>> sources_;
  std::map<std::pair<std::string, size_t>, std::unique_ptr<TokenSource>> sides_;
};

}  // namespace moetap::cli
