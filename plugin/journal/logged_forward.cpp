#include "plugin/journal/logged_forward.h"

#include <ATen/ops/empty.h>

#include "plugin/formats/byte_stream.h"

namespace moetap::plugin {
namespace {

enum ValueKind : uint64_t { kBool, kInt, kDouble };

void encode(ByteWriter& bytes, const CustomValue& value) {
  bytes.count(value.index());
  if (const auto* real = std::get_if<double>(&value)) {
    bytes.real(*real);
  } else {
    bytes.number(std::holds_alternative<bool>(value) ? std::get<bool>(value) : std::get<int64_t>(value));
  }
}

CustomValue decode_value(ByteReader& bytes) {
  switch (bytes.count()) {
    case kBool:
      return bytes.number() != 0;
    case kInt:
      return bytes.number();
    default:
      return bytes.real();
  }
}

ExpertAttentionTotal expert_total(const ExpertAttentionRecord& experts, size_t layer, size_t router) {
  ExpertAttentionTotal total{layer, router, experts.sums};
  if (!experts.sums.defined()) total.rows.push_back(experts.rows);
  return total;
}

/// Adds what a part holds; `before` counts within the result.
void add_held(std::vector<HeldRows>& all, const LogPart& part) {
  const auto first = static_cast<int64_t>(all.size());
  for (HeldRows rows : part.held) {
    if (rows.before >= 0) rows.before += first;
    all.push_back(std::move(rows));
  }
}

}  // namespace

LoggedForward log_forward(const ForwardRecord& record, const RunLayers& layers, const Config& config) {
  LoggedForward logged;
  logged.summary.forwards = record.num_forwards();
  logged.summary.generation = record.generation;
  const PartsAre parts_are = config.log_entries == LogEntries::kRow ? PartsAre::kSamples : PartsAre::kForwards;
  const size_t num_parts = record.replays > 0 || record.samples.empty() ? 0
                           : parts_are == PartsAre::kSamples            ? record.samples.size()
                                                                        : 1;
  logged.summary.sums_in_parts = num_parts > 0;
  for (size_t i = 0; i < num_parts; ++i) {
    LogPart part;
    part.samples = parts_are == PartsAre::kSamples ? std::vector<int64_t>{record.samples[i]} : record.samples;
    part.values_only = record.values_only;
    part.duration_s = record.duration_s / static_cast<double>(num_parts);
    part.custom = record.custom;
    logged.parts.push_back(std::move(part));
  }
  const auto place = [&](int64_t hook) { return layers.routers.at(record.model->instance, hook); };
  for (const RouterRecord& router : record.routers) {
    const size_t layer = place(router.hook);
    add_router(logged.summary.routers, RouterTotal{layer, sum_rows(router.sums)});
    if (num_parts == 0) continue;
    SplitRouter split = split_router(router, layer, num_parts, parts_are, config.log_per_token);
    for (size_t i = 0; i < split.parts.size(); ++i) add_router(logged.parts[i].routers, std::move(split.parts[i]));
    for (LoggedRouter& shared : split.shared) add_router(logged.shared.routers, std::move(shared));
  }
  for (const AttentionRecord& attention : record.attention) {
    const size_t layer = layers.attention.at(record.model->instance, attention.hook);
    add_attention(logged.summary.attention, AttentionTotal{layer, attention.num_key_heads, sum_rows(attention.sums)});
    for (const ExpertAttentionRecord& experts : attention.experts) {
      add_attention(logged.summary.attention_of_experts, expert_total(experts, layer, place(experts.router_hook)));
    }
    if (num_parts == 0) continue;
    SplitAttention split = split_attention(attention, layer, num_parts, parts_are);
    for (size_t i = 0; i < split.parts.size(); ++i) {
      add_attention(logged.parts[i].attention, std::move(split.parts[i]));
    }
    for (LoggedAttention& shared : split.shared) add_attention(logged.shared.attention, std::move(shared));
  }
  for (const HeldRouter& held : record.held) {
    const size_t layer = place(held.hook);
    for (size_t i = 0; i < num_parts; ++i) {
      logged.parts[i].held.push_back(rows_of(held, static_cast<int64_t>(i), layer, config.log_per_token));
    }
  }
  for (const LogPart& part : logged.parts) add_held(logged.summary.held, part);
  for (const TransitionRecord& transition : record.transitions) {
    logged.summary.transitions.push_back({place(transition.from_hook), place(transition.to_hook), transition.sums});
  }
  return logged;
}

std::string encode(const LogPart& part) {
  ByteWriter bytes;
  bytes.number(part.previous);
  bytes.number(part.shared);
  bytes.count(part.samples.size());
  for (const int64_t sample : part.samples) bytes.number(sample);
  bytes.count(part.values_only);
  bytes.real(part.duration_s);
  encode(bytes, part.routers);
  encode(bytes, part.held);
  encode(bytes, part.attention);
  bytes.count(part.custom.size());
  for (const auto& [place, values] : part.custom) {
    bytes.text(place.first);
    bytes.text(place.second);
    bytes.count(values.size());
    for (const auto& [name, value] : values) {
      bytes.text(name);
      encode(bytes, value);
    }
  }
  return bytes.take();
}

LogPart decode_log_part(std::string_view encoded) {
  ByteReader bytes(encoded);
  LogPart part;
  part.previous = bytes.number();
  part.shared = bytes.number();
  for (uint64_t left = bytes.count(); left > 0; --left) part.samples.push_back(bytes.number());
  part.values_only = bytes.count() != 0;
  part.duration_s = bytes.real();
  part.routers = decode_logged_routers(bytes);
  part.held = decode_held_rows(bytes);
  part.attention = decode_logged_attention(bytes);
  for (uint64_t left = bytes.count(); left > 0; --left) {
    std::string component = bytes.text();
    std::string layer = bytes.text();
    auto& values = part.custom[{std::move(component), std::move(layer)}];
    for (uint64_t values_left = bytes.count(); values_left > 0; --values_left) {
      const std::string name = bytes.text();
      values[name] = decode_value(bytes);
    }
  }
  return part;
}

std::vector<int64_t> decode_samples(std::string_view encoded) {
  ByteReader bytes(encoded);
  bytes.number();  // previous
  bytes.number();  // shared
  std::vector<int64_t> samples;
  for (uint64_t left = bytes.count(); left > 0; --left) samples.push_back(bytes.number());
  return samples;
}

void measure_held(LogPart& part) {
  for (const HeldRows& rows : part.held) add_router(part.routers, measured(rows));
  part.held.clear();
}

std::string encode(const SummaryPart& part) {
  ByteWriter bytes;
  bytes.count(static_cast<uint64_t>(part.forwards));
  bytes.count(part.generation);
  bytes.count(part.sums_in_parts);
  part.sums_in_parts ? encode_pairs(bytes, part.routers) : encode(bytes, part.routers);
  bytes.count(part.transitions.size());
  for (const auto& transition : part.transitions) {
    bytes.count(transition.from);
    bytes.count(transition.to);
    bytes.count(static_cast<uint64_t>(transition.sums.num_experts_from));
    bytes.count(static_cast<uint64_t>(transition.sums.num_experts_to));
    const at::Tensor counts = transition.sums.counts.contiguous();
    bytes.sparse({counts.const_data_ptr<int64_t>(), static_cast<size_t>(counts.numel())});
  }
  part.sums_in_parts ? encode_shared(bytes, part.attention) : encode(bytes, part.attention);
  encode(bytes, part.attention_of_experts);
  return bytes.take();
}

int64_t summed_forwards(std::string_view encoded) {
  return static_cast<int64_t>(ByteReader(encoded).count());
}

SummaryPart decode_summary_part(std::string_view encoded, const LogPart& shared, const std::vector<LogPart>& parts) {
  ByteReader bytes(encoded);
  SummaryPart part;
  part.forwards = static_cast<int64_t>(bytes.count());
  part.generation = bytes.count() != 0;
  part.sums_in_parts = bytes.count() != 0;
  part.routers = part.sums_in_parts ? decode_pairs(bytes) : decode_router_totals(bytes);
  if (part.sums_in_parts) {
    std::vector<const std::vector<LoggedRouter>*> routers = {&shared.routers};
    for (const LogPart& of_sample : parts) routers.push_back(&of_sample.routers);
    complete_totals(part.routers, routers);
  }
  for (const LogPart& of_sample : parts) add_held(part.held, of_sample);
  for (uint64_t left = bytes.count(); left > 0; --left) {
    SummaryPart::Transition transition;
    transition.from = bytes.count();
    transition.to = bytes.count();
    auto& sums = transition.sums;
    sums.num_experts_from = static_cast<int64_t>(bytes.count());
    sums.num_experts_to = static_cast<int64_t>(bytes.count());
    sums.counts = at::empty({sums.num_experts_from, sums.num_experts_to}, at::kLong);
    bytes.sparse({sums.counts.mutable_data_ptr<int64_t>(), static_cast<size_t>(sums.counts.numel())});
    part.transitions.push_back(std::move(transition));
  }
  if (part.sums_in_parts) {
    std::vector<const std::vector<LoggedAttention>*> attention = {&shared.attention};
    for (const LogPart& of_sample : parts) attention.push_back(&of_sample.attention);
    part.attention = decode_shared(bytes, attention);
  } else {
    part.attention = decode_attention_totals(bytes);
  }
  part.attention_of_experts = decode_expert_attention(bytes);
  return part;
}

}  // namespace moetap::plugin
