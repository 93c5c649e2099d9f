#include "plugin/records/hook_spec_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <regex>
#include <span>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "plugin/formats/json_text.h"
#include "plugin/formats/whole_file.h"

namespace moetap::plugin {
namespace {

using hooks::HookSpecEntry;
using hooks::ValueReference;

using Names = std::span<const std::string_view>;

std::string listed(Names names) {
  std::string text;
  for (const auto name : names) {
    text += (text.empty() ? "" : ", ") + std::string(name);
  }
  return text;
}

/// A JSON object whose fields are read one by one. `where` starts each error message: "spec.json: entry 0: selected".
class Fields {
 public:
  Fields(const nlohmann::json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) {
      fail(fmt::format("must be an object, got {} {}", object.type_name(), short_text(object)));
    }
  }

  void allow(Names names) const {
    for (const auto& [name, value] : object_.items()) {
      if (std::find(names.begin(), names.end(), name) == names.end()) {
        fail(fmt::format("unknown field \"{}\"; the fields are {}", name, listed(names)));
      }
    }
  }

  bool has(const char* name) const { return object_.contains(name); }
  const nlohmann::json& at(const char* name) const { return object_.at(name); }
  const std::string& where() const { return where_; }

  std::optional<std::string> text(const char* name) const {
    if (!has(name)) {
      return std::nullopt;
    }
    if (!at(name).is_string()) {
      wrong_type(name, "text");
    }
    return at(name).get<std::string>();
  }

  std::string pattern(const char* name) const {
    const std::string text = this->text(name).value();
    try {
      static_cast<void>(std::regex(text));
    } catch (const std::regex_error& error) {
      fail(fmt::format("{}: \"{}\" is no regular expression ({}); \\ is written \\\\ in JSON", name, text,
                       error.what()));
    }
    return text;
  }

  std::optional<int64_t> integer(const char* name, int64_t lowest) const {
    if (!has(name)) {
      return std::nullopt;
    }
    const bool fits = at(name).is_number_integer() &&
                      (!at(name).is_number_unsigned() || at(name).get<uint64_t>() <= INT64_MAX) &&
                      at(name).get<int64_t>() >= lowest;
    if (!fits) {
      wrong_type(name, lowest == INT64_MIN ? "an integer" : fmt::format("an integer >= {}", lowest));
    }
    return at(name).get<int64_t>();
  }

  std::optional<double> real(const char* name) const {
    if (!has(name)) {
      return std::nullopt;
    }
    if (!at(name).is_number()) {
      wrong_type(name, "a number");
    }
    return at(name).get<double>();
  }

  std::optional<bool> optional_flag(const char* name) const {
    return has(name) ? std::optional(flag(name)) : std::nullopt;
  }

  bool flag(const char* name) const {
    if (has(name) && !at(name).is_boolean()) {
      wrong_type(name, "true or false");
    }
    return has(name) && at(name).get<bool>();
  }

  std::optional<std::string> choice(const char* name, std::initializer_list<std::string_view> choices) const {
    const auto text = this->text(name);
    if (text && std::find(choices.begin(), choices.end(), *text) == choices.end()) {
      wrong_type(name, "one of " + listed({choices.begin(), choices.size()}));
    }
    return text;
  }

  [[noreturn]] void wrong_type(const char* name, const std::string& expected) const {
    fail(fmt::format("{} must be {}, got {} {}", name, expected, at(name).type_name(), short_text(at(name))));
  }

  [[noreturn]] void fail(const std::string& what) const { throw std::invalid_argument(where_ + ": " + what); }

 private:
  const nlohmann::json& object_;
  std::string where_;
};

ValueReference value_reference(const nlohmann::json& json, const std::string& where) {
  using Kind = ValueReference::Kind;
  const Fields fields(json, where);
  constexpr std::string_view kFields[] = {"output_of", "input_of", "op",       "variable",
                                          "method",    "output",   "argument", "occurrence"};
  fields.allow(kFields);
  constexpr std::pair<const char*, Kind> kKinds[] = {{"output_of", Kind::kOutputOf},
                                                     {"input_of", Kind::kInputOf},
                                                     {"op", Kind::kOperator},
                                                     {"variable", Kind::kVariable}};
  ValueReference reference;
  int num_kinds = 0;
  for (const auto& [name, kind] : kKinds) {
    if (!fields.has(name)) {
      continue;
    }
    ++num_kinds;
    reference.kind = kind;
    reference.target = kind == Kind::kOperator ? fields.text(name).value() : fields.pattern(name);
  }
  if (num_kinds != 1) {
    fields.fail(fmt::format("must have one of output_of, input_of, op, variable, got {}", num_kinds));
  }
  const bool of_module = reference.kind == Kind::kOutputOf || reference.kind == Kind::kInputOf;
  const auto only_with = [&](const char* name, bool allowed, const char* with) {
    if (fields.has(name) && !allowed) {
      fields.fail(fmt::format("{} goes with {} only", name, with));
    }
  };
  only_with("method", of_module, "output_of and input_of");
  only_with("output", reference.kind == Kind::kOutputOf || reference.kind == Kind::kOperator, "output_of and op");
  only_with("argument", reference.kind == Kind::kInputOf || reference.kind == Kind::kOperator, "input_of and op");
  if (fields.has("output") && fields.has("argument")) {
    fields.fail("output and argument exclude each other");
  }
  reference.method = fields.text("method").value_or("");
  reference.output = fields.integer("output", 0);
  reference.occurrence = fields.integer("occurrence", INT64_MIN);
  if (fields.has("argument") && fields.at("argument").is_string()) {
    reference.argument_name = fields.text("argument").value();
  } else if (fields.has("argument") && !fields.at("argument").is_number_integer()) {
    fields.wrong_type("argument", "a name or an integer >= 0");
  } else {
    reference.argument = fields.integer("argument", 0);
  }
  return reference;
}

std::vector<ValueReference> value_references(const Fields& fields, const char* name) {
  std::vector<ValueReference> references;
  if (!fields.has(name)) {
    return references;
  }
  const std::string where = fields.where() + ": " + name;
  if (!fields.at(name).is_array()) {
    return {value_reference(fields.at(name), where)};
  }
  if (fields.at(name).empty()) {
    fields.fail(fmt::format("{} must name at least one value", name));
  }
  for (const auto& json : fields.at(name)) {
    references.push_back(value_reference(json, where));
  }
  return references;
}

std::optional<ValueReference> optional_reference(const Fields& fields, const char* name) {
  if (!fields.has(name)) {
    return std::nullopt;
  }
  return value_reference(fields.at(name), fields.where() + ": " + name);
}

/// The field "layer", which may be text ("$1", "7") or an integer; always as text.
std::optional<std::string> layer(const Fields& fields) {
  if (fields.has("layer") && fields.at("layer").is_number_integer()) {
    return std::to_string(fields.integer("layer", 0).value());
  }
  return fields.text("layer");
}

// What an entry may hold besides these is a matter of its kind.
constexpr std::string_view kCommonFields[] = {"module", "kind", "method", "call", "skip", "name", "layer", "component"};
constexpr std::string_view kRouterFields[] = {"logits", "scores",      "selected", "weights",   "scoring",
                                              "form",   "num_experts", "top_k",    "expert_dim"};
constexpr std::string_view kAttentionFields[] = {"query",          "key",           "mask",          "scale",
                                                 "causal",         "probabilities", "scores",        "layout",
                                                 "implementation", "num_heads",     "num_key_heads", "self_attention"};

bool holds(Names names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

void allow_fields(const Fields& fields, const nlohmann::json& json, hooks::HookKind kind) {
  const bool is_router = kind == hooks::HookKind::kRouter;
  const Names own = is_router ? Names(kRouterFields) : Names(kAttentionFields);
  const Names others = is_router ? Names(kAttentionFields) : Names(kRouterFields);
  const auto other_kind = is_router ? hooks::HookKind::kAttention : hooks::HookKind::kRouter;
  for (const auto& [name, value] : json.items()) {
    if (holds(others, name) && !holds(own, name)) {
      fields.fail(fmt::format("{} goes with \"kind\": \"{}\", the entry is of kind {}", name,
                              hooks::to_string(other_kind), hooks::to_string(kind)));
    }
  }
  std::vector<std::string_view> allowed(std::begin(kCommonFields), std::end(kCommonFields));
  allowed.insert(allowed.end(), own.begin(), own.end());
  fields.allow(allowed);
}

void read_router(const Fields& fields, HookSpecEntry& entry) {
  entry.logits = optional_reference(fields, "logits");
  entry.scores = optional_reference(fields, "scores");
  entry.selects_all = fields.has("selected") && fields.at("selected") == "all";
  if (!entry.selects_all) {
    entry.selected = value_references(fields, "selected");
  }
  entry.weights = value_references(fields, "weights");
  entry.scoring = fields.text("scoring");
  entry.form = fields.choice("form", {"slots", "dense", "variable", "expert_choice"});
  entry.num_experts = fields.integer("num_experts", 1);
  entry.top_k = fields.integer("top_k", 1);
  entry.expert_dim = fields.integer("expert_dim", INT64_MIN);
}

// Each letter once; queries and keys are there.
bool is_layout(const std::string& letters) {
  const bool are_known = letters.find_first_not_of("bhmgrqk") == std::string::npos;
  const auto has = [&](char letter) { return letters.find(letter) != std::string::npos; };
  const bool are_once = std::all_of(letters.begin(), letters.end(), [&](char letter) {
    return std::count(letters.begin(), letters.end(), letter) == 1;
  });
  const bool heads_once = has('m') + has('h') + (has('g') || has('r')) <= 1 && !(has('m') && has('b'));
  return are_known && are_once && heads_once && has('r') <= has('g') && has('q') && has('k');
}

hooks::AttentionSpec attention_spec(const Fields& fields) {
  hooks::AttentionSpec attention;
  attention.query = optional_reference(fields, "query");
  attention.key = optional_reference(fields, "key");
  attention.mask = optional_reference(fields, "mask");
  attention.scale = fields.real("scale");
  attention.causal = fields.optional_flag("causal");
  attention.probabilities = optional_reference(fields, "probabilities");
  attention.scores = optional_reference(fields, "scores");
  attention.layout = fields.text("layout");
  attention.implementation = fields.text("implementation");
  attention.num_heads = fields.integer("num_heads", 1);
  attention.num_key_heads = fields.integer("num_key_heads", 1);
  attention.self_attention = fields.optional_flag("self_attention");
  if (attention.layout && !is_layout(*attention.layout)) {
    fields.wrong_type("layout", "the letters q and k with b and h, g and r, or m, each once, as \"bhqk\"");
  }
  for (const char* name : {"query", "key", "mask", "scale", "causal"}) {
    if (fields.has(name) && attention.probabilities) {
      fields.fail(
          fmt::format("{} and probabilities exclude each other: probabilities hold all that goes into them", name));
    }
  }
  if (attention.query && attention.scores) {
    fields.fail("query and scores exclude each other: scores go with probabilities");
  }
  return attention;
}

HookSpecEntry hook_spec_entry(const nlohmann::json& json, const std::string& where) {
  const Fields fields(json, where);
  HookSpecEntry entry;
  const auto kind = fields.choice("kind", {"router", "attention"});
  entry.kind = kind == "attention" ? hooks::HookKind::kAttention : hooks::HookKind::kRouter;
  allow_fields(fields, json, entry.kind);
  if (!fields.has("module")) {
    fields.fail("it must have module, a regular expression over the paths of modules");
  }
  fields.text("module");
  entry.module = fields.pattern("module");
  entry.method = fields.text("method");
  entry.call = fields.integer("call", INT64_MIN);
  entry.skip = fields.flag("skip");
  entry.name = fields.text("name");
  entry.layer = layer(fields);
  entry.component = fields.text("component");
  if (entry.kind == hooks::HookKind::kRouter) {
    read_router(fields, entry);
  } else {
    entry.attention = attention_spec(fields);
  }

  const bool says_more = std::any_of(json.items().begin(), json.items().end(), [](const auto& item) {
    const std::string& name = item.key();
    return name != "module" && name != "kind" && name != "method" && name != "call" && name != "skip";
  });
  if (entry.skip && says_more) {
    fields.fail("skip leaves out what was found: nothing else may be said of it");
  }
  if (!entry.skip && !says_more) {
    fields.fail("it says nothing of the module; give skip, selected, query, layer, component or another field");
  }
  return entry;
}

}  // namespace

hooks::HookSpec hook_spec_from_json(const nlohmann::json& array, const std::string& source) {
  if (!array.is_array()) {
    throw std::invalid_argument(
        fmt::format("{}: a hook spec must be a JSON array of entries, got {}", source, array.type_name()));
  }
  if (array.empty()) {
    throw std::invalid_argument(fmt::format("{}: a hook spec must have at least one entry", source));
  }
  hooks::HookSpec spec{source, {}};
  for (size_t i = 0; i < array.size(); ++i) {
    spec.entries.push_back(hook_spec_entry(array[i], fmt::format("{}: entry {}", source, i)));
  }
  return spec;
}

hooks::HookSpec hook_spec_from_file(const std::string& path) {
  std::string text;
  try {
    text = read_whole_file(path);
  } catch (const std::runtime_error&) {
    throw std::invalid_argument(fmt::format("{}: the hook spec cannot be read; it must be a JSON file", path));
  }
  try {
    return hook_spec_from_json(nlohmann::json::parse(text), path);
  } catch (const nlohmann::json::parse_error& error) {
    throw std::invalid_argument(fmt::format("{}: not valid JSON at byte {}", path, error.byte));
  }
}

hooks::HookSpec hook_spec_from_config(const nlohmann::json& hooks) {
  if (hooks.is_null()) {
    return {};
  }
  return hooks.is_string() ? hook_spec_from_file(hooks.get<std::string>()) : hook_spec_from_json(hooks, "hooks");
}

}  // namespace moetap::plugin
