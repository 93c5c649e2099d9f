#include "plugin/records/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <stdexcept>

#include "plugin/formats/json_text.h"
#include "plugin/formats/whole_file.h"
#include "plugin/records/attention_regions.h"
#include "plugin/records/config_keys.h"
#include "plugin/records/hook_spec_json.h"

namespace moetap::plugin {
namespace {

template <typename T>
ConfigKey value_key(std::string_view name, ConfigType type, T Config::*member, std::string_view doc,
                    std::string_view alias = "") {
  return {name,
          type,
          {},
          doc,
          alias,
          [member](const Config& config) { return nlohmann::json(config.*member); },
          [member](Config& config, const nlohmann::json& value) { config.*member = value.get<T>(); }};
}

/// The enumerators of T stand for `choices` in their order.
template <typename T>
ConfigKey choice_key(std::string_view name, T Config::*member, std::vector<std::string_view> choices,
                     std::string_view doc) {
  return {name,
          ConfigType::kChoice,
          choices,
          doc,
          "",
          [member, choices](const Config& config) {
            return nlohmann::json(choices.at(static_cast<size_t>(config.*member)));
          },
          [member, choices](Config& config, const nlohmann::json& value) {
            const auto place = std::find(choices.begin(), choices.end(), value.get_ref<const std::string&>());
            config.*member = static_cast<T>(place - choices.begin());
          }};
}

ConfigKey free_on_resume(ConfigKey key) {
  key.free_on_resume = true;
  return key;
}

bool fits(const ConfigKey& key, const nlohmann::json& value) {
  switch (key.type) {
    case ConfigType::kText:
      return value.is_string();
    case ConfigType::kChoice:
      return value.is_string() && std::find(key.choices.begin(), key.choices.end(),
                                            value.get_ref<const std::string&>()) != key.choices.end();
    case ConfigType::kFlag:
      return value.is_boolean();
    case ConfigType::kCount:
      return value.is_number_integer() &&
             (value.is_number_unsigned() ? value.get<uint64_t>() <= INT64_MAX : value.get<int64_t>() >= 0);
    case ConfigType::kHookSpec:
      return value.is_string() || value.is_array() || value.is_null();
  }
  return false;
}

std::string key_names() {
  std::string names;
  for (const auto& key : config_keys()) {
    names += (names.empty() ? "" : ", ") + std::string(key.name);
  }
  return names;
}

const ConfigKey& known_key(std::string_view name, const std::string& source) {
  const ConfigKey* key = find_config_key(name);
  if (key == nullptr) {
    throw std::invalid_argument(
        fmt::format("{}: unknown key \"{}\"; the keys are {}", source, std::string(name), key_names()));
  }
  return *key;
}

}  // namespace

const std::vector<ConfigKey>& config_keys() {
  static const std::vector<ConfigKey> keys = {
      free_on_resume(value_key("output_dir", ConfigType::kText, &Config::output_dir,
                               "Run directory; created if it does not exist.")),
      value_key("task", ConfigType::kText, &Config::task, "Name of the log: the file <task>.json."),
      value_key("method", ConfigType::kText, &Config::method, "Method of the model that `moetap run` calls."),
      value_key("device", ConfigType::kText, &Config::device,
                "Where `moetap run` puts the model: cpu, cuda or cuda:N."),
      value_key("seed", ConfigType::kCount, &Config::seed,
                "Seed of the random numbers that a model draws in `moetap run`: forward N of the run, counted from 0, "
                "begins with seed + N."),
      choice_key("attention", &Config::attention, {"off", "stats", "full"},
                 "What is recorded of attention layers: nothing; sums over the attention of each token, which need no "
                 "matrix of all pairs of tokens; or the probabilities as well, averaged over the heads."),
      value_key("attention_regions", ConfigType::kText, &Config::attention_regions,
                "Regions of a sequence that attention is counted between: parts:R, tokens:NAME=ID[,ID]...;... or "
                "argument:NAME."),
      value_key("attention_sample", ConfigType::kCount, &Config::attention_sample,
                "Queries a sample and layer whose attention is measured, chosen by `seed`; 0: all."),
      value_key("attention_limit_bytes", ConfigType::kCount, &Config::attention_limit_bytes,
                "attention full: the most that one sample's probabilities may take, over all layers of a forward."),
      choice_key("dump", &Config::dump, {"none", "ids", "topk", "full"},
                 "Routing dump: none; ids of each token; their weights as well; or logits and scores as well."),
      choice_key("dump_weights", &Config::dump_weights, {"f32", "f16"}, "Type of the weights in the dump."),
      value_key(
          "dump_router_input", ConfigType::kFlag, &Config::dump_router_input,
          "The dump has what enters each router's projection as well, in the model's type: thousands of numbers a "
          "token and layer."),
      choice_key("privacy", &Config::privacy, {"none", "sums"},
                 "sums: nothing about single tokens may be written, since expert ids give back most of a text: refuses "
                 "a dump, attention full and log_per_token, and writes no probe."),
      free_on_resume(
          value_key("merge_wait", ConfigType::kCount, &Config::merge_wait,
                    "Of several ranks, rank 0 waits so many seconds for the others when it closes, and merges "
                    "all into OUTPUT_DIR/merged; 0: it does not.")),
      value_key("token_ids", ConfigType::kText, &Config::token_ids,
                "Argument that holds the token ids; empty: the one that embeddings are looked up by, else found by "
                "name (input_ids, ...)."),
      value_key("token_mask", ConfigType::kText, &Config::token_mask,
                "Argument that holds the mask; empty: the one along the tokens, else found by name (attention_mask, "
                "...)."),
      choice_key(
          "token_mask_means", &Config::token_mask_means, {"auto", "valid", "padding", "additive"},
          "What is not 0 in the mask: a token, or padding; additive: very negative numbers are padding. auto: as "
          "the model uses it, else by its name and type."),
      value_key("probe_tokens", ConfigType::kCount, &Config::probe_tokens,
                "Tokens a layer whose probabilities are always kept; 0 for none."),
      value_key("log_component", ConfigType::kText, &Config::log_component,
                "Component that fills logs_metrics_vision; empty: the vision tower, else the language model, else the "
                "decoder."),
      choice_key("log_entries", &Config::log_entries, {"row", "forward"},
                 "One log entry for each sequence of a batch, or for each forward."),
      choice_key("log_forwards", &Config::log_forwards, {"merged", "last"},
                 "A sample of several forwards logs all of them merged, or the last."),
      choice_key("unlabelled", &Config::unlabelled, {"new", "follow"},
                 "Forwards that no label names: each starts samples, or those of one token a sequence continue the "
                 "thread's last longer one (generation with a cache)."),
      value_key("record_every", ConfigType::kCount, &Config::record_every,
                "Record one forward in so many; the others are counted as skipped. Sample numbers count all forwards."),
      free_on_resume(value_key("max_forwards", ConfigType::kCount, &Config::max_forwards,
                               "Recording ends after so many forwards of a process, the model runs on; 0: never.")),
      free_on_resume(value_key("max_bytes", ConfigType::kCount, &Config::max_bytes,
                               "Recording ends once a process has written so many bytes of journal and dump, the model "
                               "runs on; what was under way is still written; 0: never.")),
      free_on_resume(
          value_key("metrics_file", ConfigType::kText, &Config::metrics_file,
                    "File with figures of the run so far, in Prometheus' text format; rewritten while it goes "
                    "on. Empty: none.")),
      free_on_resume(value_key("metrics_interval", ConfigType::kCount, &Config::metrics_interval,
                               "Seconds between two writes of metrics_file and tensorboard_dir, at least.")),
      free_on_resume(value_key("tensorboard_dir", ConfigType::kText, &Config::tensorboard_dir,
                               "Folder for the same figures as TensorBoard's event files. Empty: none.")),
      value_key("log_per_token", ConfigType::kFlag, &Config::log_per_token,
                "Log selected_experts and router_magine, which grow with the tokens.", "return_id_experts"),
      value_key("renumber_layers", ConfigType::kFlag, &Config::renumber_layers,
                "Number the MoE layers of the log 0, 1, 2, ... where dense layers leave gaps."),
      value_key("libmoe_guide_layout", ConfigType::kFlag, &Config::libmoe_guide_layout,
                "Write logs_metrics_vision one list deep, as LibMoE's guide has it and its toolkit cannot read."),
      free_on_resume(value_key("queue_bytes", ConfigType::kCount, &Config::queue_bytes,
                               "Bytes of records that may wait for the writer thread.")),
      free_on_resume(choice_key("on_overflow", &Config::on_overflow, {"block", "drop"},
                                "When the queue is full: the forward waits, or its record is dropped and counted.")),
      free_on_resume(value_key("strict", ConfigType::kFlag, &Config::strict,
                               "A failure while recording is thrown into the forward instead of being counted.")),
      free_on_resume(value_key("check_every", ConfigType::kCount, &Config::check_every,
                               "After its first three calls, a hook checks itself again at every so many; 0: never.")),
      value_key("hooks", ConfigType::kHookSpec, &Config::hooks,
                "Hook spec, by which routers are named by hand: an array, or the path of a JSON file."),
      free_on_resume(value_key("samples", ConfigType::kText, &Config::samples,
                               "JSON Lines file with the log fields of each sample, in order.")),
      free_on_resume(value_key(
          "resume", ConfigType::kFlag, &Config::resume,
          "Go on with the unfinished run in output_dir, with the same model and the same inputs; where there is none, "
          "begin one.")),
  };
  return keys;
}

const ConfigKey* find_config_key(std::string_view name) {
  for (const auto& key : config_keys()) {
    if (key.name == name || (!key.alias.empty() && key.alias == name)) {
      return &key;
    }
  }
  return nullptr;
}

std::string describe_type(const ConfigKey& key) {
  switch (key.type) {
    case ConfigType::kText:
      return "text";
    case ConfigType::kFlag:
      return "true or false";
    case ConfigType::kCount:
      return "an integer >= 0";
    case ConfigType::kHookSpec:
      return "a path or an array";
    case ConfigType::kChoice:
      break;
  }
  std::string text = "one of";
  for (size_t i = 0; i < key.choices.size(); ++i) {
    text += (i == 0 ? " " : ", ") + std::string(key.choices[i]);
  }
  return text;
}

void Config::set(std::string_view name, const nlohmann::json& value, const std::string& source) {
  const ConfigKey& key = known_key(name, source);
  if (!fits(key, value)) {
    throw std::invalid_argument(fmt::format("{}: key \"{}\" must be {}, got {} {}", source, std::string(name),
                                            describe_type(key), value.type_name(), short_text(value)));
  }
  key.put(*this, value);
}

void Config::set_from_text(std::string_view name, const std::string& text, const std::string& source) {
  const ConfigKey& key = known_key(name, source);
  nlohmann::json value = text;
  if (key.type == ConfigType::kFlag && (text == "true" || text == "false")) {
    value = text == "true";
  } else if (key.type == ConfigType::kCount) {
    int64_t count = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), count);
    if (parsed.ec == std::errc() && parsed.ptr == text.data() + text.size() && !text.empty()) {
      value = count;
    }
  }
  set(name, value, source);
}

void Config::update_from_json(const nlohmann::json& object, const std::string& source) {
  if (!object.is_object()) {
    throw std::invalid_argument(
        fmt::format("{}: the configuration must be a JSON object, got {}", source, object.type_name()));
  }
  for (const auto& [name, value] : object.items()) {
    const ConfigKey& key = known_key(name, source);
    if (name == key.alias && object.contains(key.name) && object.at(std::string(key.name)) != value) {
      throw std::invalid_argument(
          fmt::format("{}: keys \"{}\" and \"{}\" are the same setting and must agree, got {} and {}", source,
                      std::string(key.name), name, short_text(object.at(std::string(key.name))), short_text(value)));
    }
    set(name, value, source);
  }
}

void Config::update_from_json_text(const std::string& text, const std::string& source) {
  nlohmann::json object;
  try {
    object = nlohmann::json::parse(text);
  } catch (const nlohmann::json::parse_error& error) {
    throw std::invalid_argument(fmt::format("{}: not valid JSON at byte {}", source, error.byte));
  }
  update_from_json(object, source);
}

void Config::update_from_json_file(const std::string& path) {
  std::string text;
  try {
    text = read_whole_file(path);
  } catch (const std::runtime_error&) {
    throw std::invalid_argument(fmt::format("{}: the configuration cannot be read; it must be a JSON file", path));
  }
  update_from_json_text(text, path);
}

Config Config::from_json(const nlohmann::json& object, const std::string& source) {
  Config config;
  config.update_from_json(object, source);
  return config;
}

Config Config::from_json_text(const std::string& text, const std::string& source) {
  Config config;
  config.update_from_json_text(text, source);
  return config;
}

Config Config::from_json_file(const std::string& path) {
  Config config;
  config.update_from_json_file(path);
  return config;
}

nlohmann::ordered_json Config::to_json() const {
  nlohmann::ordered_json object = nlohmann::ordered_json::object();
  for (const auto& key : config_keys()) {
    object[std::string(key.name)] = key.get(*this);
  }
  return object;
}

void Config::make_paths_absolute(const std::filesystem::path& directory) {
  const auto absolute = [&](const std::string& path) {
    return path.empty() ? path : (directory / path).lexically_normal().string();
  };
  output_dir = absolute(output_dir);
  samples = absolute(samples);
  metrics_file = absolute(metrics_file);
  tensorboard_dir = absolute(tensorboard_dir);
  if (hooks.is_string()) hooks = absolute(hooks.get<std::string>());
}

void Config::check() const {
  if (task.empty() || task.find('/') != std::string::npos || task == "." || task == "..") {
    throw std::invalid_argument(
        fmt::format("task must be the name of a file without folder and ending, got \"{}\"", task));
  }
  if (task == "results") {
    throw std::invalid_argument("task must not be \"results\": results.json is a file of its own");
  }
  if (record_every == 0) throw std::invalid_argument("record_every must be at least 1, got 0");
  if (privacy == Privacy::kSums) {
    const char* told = dump != Dump::kNone             ? "dump must be none"
                       : attention == Attention::kFull ? "attention must be off or stats"
                       : log_per_token                 ? "log_per_token must be false"
                                                       : nullptr;
    if (told != nullptr) throw std::invalid_argument(fmt::format("privacy is sums: {}", told));
  }
  if (dump_router_input && dump == Dump::kNone) {
    throw std::invalid_argument("dump_router_input is true: dump must be ids, topk or full, got none");
  }
  AttentionRegions::from_text(attention_regions);
  hook_spec_from_config(hooks);
}

}  // namespace moetap::plugin
