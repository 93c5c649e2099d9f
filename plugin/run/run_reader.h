#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace moetap::plugin {

/// A router of a finished run, as the run's files name it.
struct ReadLayer {
  std::string component;
  std::string layer;  // id, unique in the component
  std::string name;   // path of the module
  std::string scoring;
  int64_t num_experts = 0;        // routed experts; 0: neither the graph nor the run fixes it
  int64_t null_experts = 0;       // ids from num_experts on that stand for no routed expert
  std::optional<int64_t> top_k;   // empty: the graph does not fix it
  std::vector<int64_t> selected;  // int64 [E]: how often each expert was selected, all ranks together
  std::vector<int64_t> top1;      // int64 [E]: in the first slot
  int64_t tokens = 0;
  double entropy = 0;          // mean of entropy_all over the tokens that have it, nats; all ranks together
  int64_t entropy_tokens = 0;  // how many those are: 0 where no logits were captured
};

/// A finished run: what its manifests and summaries say about the model and its routers. Reads each JSON file once;
/// memory does not depend on the length of the run. The constructor throws std::runtime_error with one line: no such
/// folder, no run, a rank that did not finish (the line names `moetap recover`), a manifest of another version.
class RunReader {
 public:
  explicit RunReader(const std::string& run_dir);

  const std::string& path() const { return path_; }
  const std::vector<int64_t>& ranks() const { return ranks_; }  // ascending
  /// Routers that reported, by component, in the order of layer ids.
  const std::map<std::string, std::vector<ReadLayer>>& components() const { return components_; }
  const std::string& model_file() const { return model_file_; }
  const std::string& sha256() const { return sha256_; }
  const std::string& moetap_version() const { return moetap_version_; }
  const nlohmann::json& config() const { return config_; }  // of the first rank
  std::string config_text(const std::string& key) const;    // "" if the key is missing or no text
  /// Path of the file with the samples' fields, "" if there was none. Throws std::runtime_error with one line if the
  /// ranks had different ones: a sample's number then tells no line.
  std::string samples_file() const;
  std::string task() const { return config_text("task"); }
  std::string dump_folder(int64_t rank) const;
  std::string log_folder(int64_t rank) const;  // of <task>.json
  /// The component that the log's vision entries show: `log_component`, else the first of vision_tower, language_model,
  /// decoder that has routers, else the first.
  std::string main_component() const;

 private:
  void find_ranks();
  void read_manifest(int64_t rank);
  void read_summary(int64_t rank);

  std::string path_;
  std::vector<int64_t> ranks_;
  std::map<std::string, std::vector<ReadLayer>> components_;
  std::string model_file_, sha256_, moetap_version_;
  nlohmann::json config_;
  std::set<std::string> samples_files_;  // of all ranks
};

}  // namespace moetap::plugin
