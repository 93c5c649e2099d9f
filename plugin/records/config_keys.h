#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "plugin/records/config.h"

namespace moetap::plugin {

enum class ConfigType { kText, kChoice, kFlag, kCount, kHookSpec };

/// One key of the configuration. The program's option is the same name with dashes.
struct ConfigKey {
  std::string_view name;
  ConfigType type;
  std::vector<std::string_view> choices;  // of a kChoice
  std::string_view doc;                   // one sentence
  std::string_view alias;                 // another name for the key; empty: none
  std::function<nlohmann::json(const Config&)> get;
  std::function<void(Config&, const nlohmann::json&)> put;  // the value has been checked
  bool free_on_resume = false;  // a resumed run may have another value, since nothing else would be recorded
};

/// The catalogue: every key once, in the order in which it is documented. The default is the member's in `Config{}`.
const std::vector<ConfigKey>& config_keys();

/// The key of this name or alias; nullptr if there is none.
const ConfigKey* find_config_key(std::string_view name);

/// "text", "one of none, topk, full", "true or false", ...
std::string describe_type(const ConfigKey& key);

}  // namespace moetap::plugin
