#include "plugin/records/attention_bytes.h"

#include <fmt/format.h>

namespace moetap::plugin {

void AttentionBytes::add_layers(int64_t count, int64_t of_queries, int64_t of_keys) {
  num_layers += count;
  bytes += count * of_queries * of_keys * static_cast<int64_t>(sizeof(float));
  if (of_queries * of_keys <= queries * keys) return;
  queries = of_queries;
  keys = of_keys;
}

std::string AttentionBytes::text() const {
  if (num_layers == 0) return "attention full: only the run shows how many bytes it keeps a sample";
  return fmt::format("attention full keeps {}{} bytes a sample: {} layers, up to {} queries × {} keys",
                     num_unknown > 0 ? "at least " : "", bytes, num_layers, queries, keys);
}

std::string AttentionBytes::refusal(int64_t limit_bytes) const {
  if (bytes <= limit_bytes) return "";
  return fmt::format("{}; attention_limit_bytes is {}: raise it, or set attention to stats", text(), limit_bytes);
}

}  // namespace moetap::plugin
