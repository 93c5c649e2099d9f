#include "cli/report/token_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>

#include "analysis/attention/attention_columns.h"
#include "cli/inputs/vocabulary.h"
#include "cli/report/category_counts.h"
#include "cli/report/sample_image.h"
#include "cli/report/size_budget.h"
#include "cli/report/token_plan.h"
#include "cli/terminal/command_error.h"
#include "plugin/dump/component_reader.h"
#include "plugin/results/samples_file.h"
#include "plugin/run/run_dump.h"

namespace moetap::cli {
namespace {

using nlohmann::ordered_json;

constexpr int64_t kBatchTokens = 1 << 13;

/// A sample that the page shows, while the dump is read.
struct KeptSample {
  ordered_json json;
  int64_t num_tokens = 0;  // with those that are not kept
  std::vector<int32_t> token_ids;
};

/// A layer's columns of one batch.
struct LayerBatch {
  std::vector<int32_t> ids;
  std::vector<float> weights;
  std::vector<float> attention;  // [n, width]; `received` is the last column
};

/// The columns of a layer's attention where queries are keys too, so that tokens receive; 0: it has none.
int64_t attention_width(const plugin::ComponentReader& reader, const ordered_json& attention,
                        const std::string& layer) {
  if (!attention.is_array() || !reader.has_column(layer, "attention_stats")) return 0;
  for (const ordered_json& known : attention) {
    if (known.value("layer", "") != layer || !known.contains("regions")) continue;
    const auto columns = analysis::attention_columns(static_cast<int64_t>(known["regions"].size()), /*self=*/true);
    const int64_t width = reader.width(layer, "attention_stats");
    return static_cast<int64_t>(columns.size()) == width && columns.back().name == "received" ? width : 0;
  }
  return 0;
}

std::string text_of(const ordered_json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_null()) return "";
  return value.is_array() && value.size() == 1 ? text_of(value[0])
                                               : value.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

/// The begin of a text, cut between characters of UTF-8.
std::string cut_text(std::string text, size_t most_bytes) {
  if (text.size() <= most_bytes) return text;
  size_t end = most_bytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return text.substr(0, end) + "…";
}

/// What is said above a sample's tokens.
void add_fields(ordered_json& sample, const ordered_json& fields) {
  constexpr size_t kMostOfName = 60, kMostOfText = 200;
  if (!fields.is_object()) return;
  const ordered_json doc = fields.value("doc", ordered_json::object());
  if (doc.is_object() && doc.contains("category")) sample["category"] = cut_text(text_of(doc["category"]), kMostOfName);
  if (fields.contains("doc_id")) sample["doc_id"] = fields["doc_id"];
  if (fields.contains("target")) sample["target"] = cut_text(text_of(fields["target"]), kMostOfText);
  const char* answer = fields.contains("filtered_resps") ? "filtered_resps" : "resps";
  if (fields.contains(answer)) sample["answer"] = cut_text(text_of(fields[answer]), kMostOfText);
  if (doc.is_object() && doc.contains("question")) sample["question"] = cut_text(text_of(doc["question"]), kMostOfText);
}

/// The double that a float reads as at its shortest, or with four digits; null for NaN.
ordered_json number_of(float value, bool rounds) {
  if (value != value) return nullptr;
  return std::strtod((rounds ? fmt::format("{:.4g}", value) : fmt::format("{}", value)).c_str(), nullptr);
}

class ComponentTokens {
 public:
  ComponentTokens(const plugin::ComponentReader& reader, std::vector<plugin::ReadLayer> layers,
                  const TokenOptions& options, const std::vector<ordered_json>& fields, const ordered_json& attention)
      : reader_(reader), layers_(std::move(layers)), options_(options), fields_(fields), counts_(fields, layers_) {
    for (const plugin::ReadLayer& layer : layers_)
      attention_width_.push_back(attention_width(reader, attention, layer.layer));
  }

  /// `max_bytes`: of the tokens of this component.
  void read(int64_t max_bytes, const std::function<void()>& check) {
    labels_.resize(static_cast<size_t>(kBatchTokens));
    batches_.resize(layers_.size());
    make_plan(max_bytes, check);
    for (int64_t first = 0; first < reader_.num_tokens(); first += kBatchTokens) {
      check();
      read_batch(first, std::min(kBatchTokens, reader_.num_tokens() - first));
    }
  }

  ordered_json tokens(const Vocabulary* vocabulary, std::set<int32_t>& used) {
    ordered_json json = {
        {"layers", ordered_json::array()}, {"top_k", ordered_json::array()}, {"samples", ordered_json::array()}};
    for (const size_t place : plan_.layers) {
      json["layers"].push_back(layers_[place].layer);
      json["top_k"].push_back(reader_.width(layers_[place].layer, "selected"));
    }
    if (!plan_.note.empty()) json["note"] = plan_.note;
    for (auto& [number, sample] : kept_) {
      const auto shown = static_cast<int64_t>(sample.json["token_id"].size());
      ordered_json& phases = sample.json["phase"];
      if (std::all_of(phases.begin(), phases.end(), [](const auto& phase) { return phase == 0; }))
        sample.json.erase("phase");
      if (shown < sample.num_tokens)
        sample.json["cut"] = fmt::format("The first {} of {} tokens.", shown, sample.num_tokens);
      if (vocabulary != nullptr) used.insert(sample.token_ids.begin(), sample.token_ids.end());
      json["samples"].push_back(std::move(sample.json));
    }
    return json;
  }

  ordered_json categories() const { return counts_.json(); }
  std::map<int64_t, KeptSample>& kept() { return kept_; }

 private:
  /// Counts the tokens of each sample, then chooses.
  void make_plan(int64_t max_bytes, const std::function<void()>& check) {
    std::vector<int64_t> numbers, lengths;
    std::map<int64_t, size_t> places;
    for (int64_t first = 0; first < reader_.num_tokens(); first += kBatchTokens) {
      check();
      const int64_t n = std::min(kBatchTokens, reader_.num_tokens() - first);
      reader_.read_labels(first, n, labels_.data());
      for (int64_t t = 0; t < n; ++t) {
        const plugin::TokenLabel& label = labels_[static_cast<size_t>(t)];
        if (label.phase < 0) continue;
        const auto [place, is_new] = places.try_emplace(label.sample, numbers.size());
        if (is_new) {
          numbers.push_back(label.sample);
          lengths.push_back(0);
        }
        ++lengths[place->second];
      }
    }
    std::vector<TokenLayer> costs;
    for (size_t l = 0; l < layers_.size(); ++l) {
      costs.push_back({reader_.width(layers_[l].layer, "selected"), layers_[l].num_experts,
                       reader_.has_column(layers_[l].layer, "weights"), attention_width_[l] > 0});
    }
    const int64_t with_fields = std::clamp<int64_t>(static_cast<int64_t>(fields_.size()), 1, 1 + options_.max_samples);
    ordered_json all_fields = ordered_json::array();
    for (size_t i = 0; i < fields_.size() && static_cast<int64_t>(i) < with_fields; ++i)
      add_fields(all_fields.emplace_back(ordered_json::object()), fields_[i]);
    constexpr int64_t kPlainSample = 100, kPictureBytes = 150;
    const int64_t sample_bytes = kPlainSample + kPictureBytes + json_bytes(all_fields) / with_fields;
    plan_ = plan_tokens(lengths, costs, sample_bytes, options_.max_samples, options_.max_tokens, max_bytes);
    for (const size_t place : plan_.samples) chosen_.insert(numbers[place]);
  }

  void read_batch(int64_t first, int64_t n) {
    reader_.read_labels(first, n, labels_.data());
    for (size_t l = 0; l < layers_.size(); ++l) {
      const std::string& layer = layers_[l].layer;
      const int64_t width = reader_.width(layer, "selected");
      batches_[l].ids.resize(static_cast<size_t>(n * width));
      reader_.read_ids(layer, first, n, width, batches_[l].ids.data());
      counts_.add(l, labels_.data(), n, batches_[l].ids.data(), width);
      if (attention_width_[l] > 0) {
        batches_[l].attention.resize(static_cast<size_t>(n * attention_width_[l]));
        reader_.read_reals(layer, "attention_stats", first, n, attention_width_[l], batches_[l].attention.data());
      }
      if (!reader_.has_column(layer, "weights")) continue;
      batches_[l].weights.resize(static_cast<size_t>(n * width));
      reader_.read_reals(layer, "weights", first, n, width, batches_[l].weights.data());
    }
    for (int64_t t = 0; t < n; ++t) add_token(labels_[static_cast<size_t>(t)], t);
  }

  void add_token(const plugin::TokenLabel& label, int64_t t) {
    if (label.phase < 0) return;
    if (!chosen_.contains(label.sample)) return;
    auto known = kept_.find(label.sample);
    if (known == kept_.end()) known = kept_.emplace(label.sample, new_sample(label.sample)).first;
    KeptSample& sample = known->second;
    if (sample.num_tokens++ >= plan_.max_tokens) return;
    sample.json["token_id"].push_back(label.token_id);
    sample.json["phase"].push_back(label.phase);
    sample.token_ids.push_back(label.token_id);
    for (size_t place = 0; place < plan_.layers.size(); ++place) {
      const size_t l = plan_.layers[place];
      const LayerBatch& batch = batches_[l];
      if (attention_width_[l] > 0) {
        sample.json["received"][place].push_back(
            number_of(batch.attention[static_cast<size_t>((t + 1) * attention_width_[l] - 1)], plan_.rounds));
      }
      const int64_t width = reader_.width(layers_[l].layer, "selected");
      for (int64_t k = 0; k < width; ++k) {
        const auto slot = static_cast<size_t>(t * width + k);
        const int32_t id = batch.ids[slot];
        sample.json["ids"][place].push_back(id >= 0 && id < layers_[l].num_experts ? id : -1);
        if (!batch.weights.empty())
          sample.json["weights"][place].push_back(number_of(batch.weights[slot], plan_.rounds));
      }
    }
  }

  KeptSample new_sample(int64_t number) const {
    KeptSample sample;
    const auto empty = ordered_json::array();
    sample.json = {{"sample", number}, {"token_id", empty}, {"phase", empty}};
    if (number >= 0 && number < static_cast<int64_t>(fields_.size()))
      add_fields(sample.json, fields_[static_cast<size_t>(number)]);
    const auto any = [&](const auto& holds) { return std::any_of(plan_.layers.begin(), plan_.layers.end(), holds); };
    sample.json["ids"] = ordered_json(plan_.layers.size(), empty);
    if (any([&](size_t l) { return attention_width_[l] > 0; }))
      sample.json["received"] = ordered_json(plan_.layers.size(), empty);
    if (any([&](size_t l) { return reader_.has_column(layers_[l].layer, "weights"); }))
      sample.json["weights"] = ordered_json(plan_.layers.size(), empty);
    return sample;
  }

  const plugin::ComponentReader& reader_;
  std::vector<plugin::ReadLayer> layers_;
  const TokenOptions& options_;
  const std::vector<ordered_json>& fields_;
  CategoryCounts counts_;
  std::vector<plugin::TokenLabel> labels_;
  std::vector<LayerBatch> batches_;
  std::vector<int64_t> attention_width_;  // by layer; 0: none
  std::map<int64_t, KeptSample> kept_;
  std::set<int64_t> chosen_;  // samples of the plan
  TokenPlan plan_;
};

}  // namespace

std::vector<ordered_json> sample_fields(const plugin::RunReader& run, std::vector<std::string>& notices) {
  std::vector<ordered_json> fields;
  const std::string path = run.samples_file();
  std::error_code error;
  if (std::filesystem::exists(path, error)) {
    try {
      const plugin::SamplesFile samples(path);
      for (int64_t sample = 0; sample < samples.size(); ++sample) fields.push_back(samples.given(sample));
    } catch (const std::exception& failure) {
      notices.push_back(fmt::format("the samples are not read: {}", failure.what()));
      fields.clear();
    }
  }
  if (!fields.empty() || run.ranks().size() != 1 || run.config_text("log_entries") == "forward") return fields;
  // The samples file lies elsewhere now: the log has the same fields, an entry a sample, beside the metrics.
  std::ifstream log(std::filesystem::path(run.log_folder(run.ranks().front())) / (run.task() + ".json"));
  const auto keep = [](int, ordered_json::parse_event_t event, ordered_json& parsed) {
    return event != ordered_json::parse_event_t::key || !parsed.is_string() ||
           !parsed.get_ref<const std::string&>().starts_with("logs_metrics");
  };
  const ordered_json entries = log ? ordered_json::parse(log, keep, /*allow_exceptions=*/false) : ordered_json();
  if (entries.is_object() && entries.contains("logs") && entries["logs"].is_array()) {
    fields.assign(entries["logs"].begin(), entries["logs"].end());
  }
  return fields;
}

TokenData token_data(const plugin::RunReader& run, const TokenOptions& options, const ordered_json& attention,
                     const std::string& scratch_folder, const std::function<void()>& check,
                     std::vector<std::string>& notices) {
  TokenData data;
  if (!plugin::has_dump(run)) return data;
  const std::vector<ordered_json> fields = sample_fields(run, notices);
  std::optional<Vocabulary> vocabulary;
  if (!options.vocabulary.empty()) vocabulary.emplace(options.vocabulary);
  SampleImages images(options, run);
  std::set<int32_t> used;
  ordered_json components = ordered_json::object(), categories = ordered_json::object();
  const auto num_components = static_cast<int64_t>(std::max<size_t>(run.components().size(), 1));
  for (const auto& [component, layers] : run.components()) {
    plugin::ComponentReader::Source source{component, {}, scratch_folder, check};
    for (const int64_t rank : run.ranks()) source.folders.emplace_back(rank, run.dump_folder(rank));
    const plugin::ComponentReader reader(std::move(source));
    notices.insert(notices.end(), reader.damage().begin(), reader.damage().end());
    std::vector<plugin::ReadLayer> held;
    std::copy_if(layers.begin(), layers.end(), std::back_inserter(held),
                 [&](const auto& layer) { return reader.has_layer(layer.layer); });
    if (held.empty() || reader.num_tokens() == 0) continue;
    ComponentTokens tokens(reader, std::move(held), options, fields, attention.value(component, ordered_json()));
    tokens.read(options.max_bytes / num_components, check);
    std::vector<SampleOfImage> pictured;
    for (auto& [number, sample] : tokens.kept()) pictured.push_back({number, sample.token_ids, sample.json});
    images.add(pictured, fields, notices);
    components[component] = tokens.tokens(vocabulary ? &*vocabulary : nullptr, used);
    ordered_json counted = tokens.categories();
    if (!counted.is_null()) categories[component] = std::move(counted);
  }
  data.categories = std::move(categories);
  if (components.empty() || options.max_samples == 0) return data;
  data.tokens = {
      {"components", std::move(components)}, {"images", images.take()}, {"vocabulary", ordered_json::object()}};
  if (vocabulary) data.tokens["vocabulary"] = vocabulary->texts(used);
  return data;
}

}  // namespace moetap::cli
